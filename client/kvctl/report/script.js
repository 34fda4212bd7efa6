// What the page does when touched: hints at the pointer, one panel of stages at a time, expanding. It reads the page and loads
// nothing; what it shows goes through textContent.
"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const hint = document.getElementById("tip");
  document.body.classList.add("ready");

  // Hints: lines of data-tip, each "class, name, value" with tabs between; the first is the title.
  function show(element, x, y) {
    const [title, ...lines] = element.dataset.tip.split("\n");
    const heading = document.createElement("b");
    heading.textContent = title;
    hint.replaceChildren(heading, ...lines.map(line));
    hint.hidden = false;
    const { width, height } = hint.getBoundingClientRect();
    const left = x + 14 + width > innerWidth ? x - 14 - width : x + 14;
    const top = y + 14 + height > innerHeight ? y - 14 - height : y + 14;
    hint.style.transform = `translate(${Math.max(4, left)}px, ${Math.max(4, top)}px)`;
  }

  function line(text) {
    const [colour, name, value] = text.split("\t");
    const row = document.createElement("div");
    const label = document.createElement("span");
    if (colour) {
      const chip = document.createElement("span");
      chip.className = `chip ${colour}`;
      label.append(chip);
    }
    label.append(name);
    const figure = document.createElement("span");
    figure.textContent = value;
    row.append(label, figure);
    return row;
  }

  const told = (event) => event.target instanceof Element && event.target.closest("[data-tip]");
  document.addEventListener("pointermove", (event) => {
    const element = told(event);
    if (element) show(element, event.clientX, event.clientY);
    else if (!hint.dataset.held) hint.hidden = true;
  });
  document.addEventListener("pointerleave", () => { hint.hidden = true; });
  addEventListener("scroll", () => { hint.hidden = true; }, { passive: true });

  // A chart that has the focus: arrow keys go from place to place.
  for (const plot of all(".plot[tabindex]")) {
    const places = all(".hit", plot);
    let at = -1;
    const leave = () => {
      places[at]?.classList.remove("at");
      hint.hidden = true;
      delete hint.dataset.held;
    };
    plot.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (event.key === "Escape") leave();
      if (!step || !places.length) return;
      event.preventDefault();
      leave();
      at = Math.min(Math.max(at + step, 0), places.length - 1);
      places[at].classList.add("at");
      const box = places[at].getBoundingClientRect();
      hint.dataset.held = "1";
      show(places[at], box.right, box.top);
    });
    plot.addEventListener("blur", () => { leave(); at = -1; });
  }

  // A kind of request under the pointer in a legend: the other lines step back.
  function single(name) {
    for (const path of all("path[data-series]")) path.classList.toggle("dim", name !== null && path.dataset.series !== name);
  }
  for (const entry of all("li[data-series]")) {
    for (const begin of ["pointerenter", "focus"]) entry.addEventListener(begin, () => single(entry.dataset.series));
    for (const end of ["pointerleave", "blur"]) entry.addEventListener(end, () => single(null));
  }

  // Panels.
  for (const group of all(".tabs")) {
    const tabs = all("[role=tab]", group);
    const select = (chosen) => {
      for (const tab of tabs) {
        const selected = tab === chosen;
        tab.setAttribute("aria-selected", String(selected));
        tab.tabIndex = selected ? 0 : -1;
        document.getElementById(tab.getAttribute("aria-controls")).hidden = !selected;
      }
    };
    tabs.forEach((tab, place) => {
      tab.addEventListener("click", () => select(tab));
      tab.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (!step) return;
        const next = tabs[(place + step + tabs.length) % tabs.length];
        select(next);
        next.focus();
      });
    });
    if (tabs.length) select(tabs[0]);
  }

  // Expanding all, and for paper.
  for (const button of all("[data-expand]")) {
    const cards = all("details", document.getElementById(button.dataset.expand));
    button.addEventListener("click", () => {
      const open = cards.some((card) => !card.open);
      for (const card of cards) card.open = open;
      button.textContent = open ? "Collapse all" : "Expand all";
    });
  }
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = all("details.list:not([open]), details.slow:not([open])").slice(0, 8);
    for (const card of opened) card.open = true;
  });
  addEventListener("afterprint", () => { for (const card of opened) card.open = false; });

  // Where the reader is.
  const links = new Map(all("nav a").map((link) => [link.hash.slice(1), link]));
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      for (const link of links.values()) link.removeAttribute("aria-current");
      links.get(entry.target.id)?.setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-20% 0px -70% 0px" });
  for (const id of links.keys()) {
    const target = document.getElementById(id);
    if (target) seen.observe(target);
  }

  document.documentElement.dataset.ready = "1";
})();
