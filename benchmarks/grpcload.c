/* grpcload: a small, neutral gRPC load generator (unary calls over cleartext HTTP/2), so that servers in any
 * language meet the same client. It counts a call as good only if its grpc-status is 0, which h2load cannot.
 *
 *   cc -O2 -o grpcload grpcload.c -lnghttp2        (Debian: gcc libnghttp2-dev)
 *   grpcload -t HOST:PORT[,HOST:PORT...] -p /pkg.Service/Method -k KEYS_FILE [options]
 *
 * KEYS_FILE: one "TARGET_INDEX KEY" a line; every call takes a random line, so a key always goes to its node.
 * Body of a call: field 1 = key; with -v N also field 2 = N random bytes; then the bytes of -x HEX.
 *   -c N  connections a target (1)     -m N  calls in flight a connection (1)
 *   -s S  seconds (3)                  -w S  seconds of warm-up, not counted (0.5)
 *   -r N  random seed (1)              -i    print good calls per 100 ms as well
 * Prints one JSON object: good, bad by status, calls per second, latency percentiles in microseconds; and total: good calls of
 * the whole run, the warm-up and the calls that were in flight at the end too, to be set against what the server used meanwhile.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <nghttp2/nghttp2.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_TARGETS 64
#define BUCKETS 8192 /* log-linear: 64 steps an octave */

typedef struct Call { int64_t start; int status; size_t sent; size_t size; uint8_t body[]; } Call;
typedef struct { int fd, target; nghttp2_session *h2; int in_flight, dead; size_t from, to; uint8_t out[1 << 17]; } Conn;
typedef struct { char *text; int size; } Key;

static char *targets[MAX_TARGETS];
static int n_targets, per_target = 1, width = 1, value_size = -1, show_timeline;
static const char *path;
static Key *keys[MAX_TARGETS];
static int n_keys[MAX_TARGETS];
static uint8_t extra[256];
static int extra_size;
static double seconds = 3, warmup = 0.5;
static uint64_t rng = 1, good, total, bad[18], transport_errors, histogram[BUCKETS];
static int64_t slowest, t0, t_count, t_end;
static uint64_t *timeline;
static int epfd;

static int64_t now_us(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000000LL + t.tv_nsec / 1000; }
static uint64_t rnd(void) { rng ^= rng << 13; rng ^= rng >> 7; rng ^= rng << 17; return rng; }

static int bucket(int64_t us) {
  if (us < 64) return us < 0 ? 0 : us;
  int octave = 63 - __builtin_clzll(us);
  int b = (octave - 5) * 64 + ((us >> (octave - 6)) & 63);
  return b < BUCKETS ? b : BUCKETS - 1;
}
static int64_t bucket_value(int b) { return b < 64 ? b : (int64_t)(64 + (b & 63)) << (b / 64 - 1); }

static ssize_t read_body(nghttp2_session *s, int32_t id, uint8_t *buf, size_t n, uint32_t *flags, nghttp2_data_source *src, void *u) {
  Call *c = src->ptr;
  size_t left = c->size - c->sent;
  if (n > left) n = left;
  memcpy(buf, c->body + c->sent, n);
  c->sent += n;
  if (c->sent == c->size) *flags |= NGHTTP2_DATA_FLAG_EOF;
  return n;
}

static size_t varint(uint8_t *p, uint64_t n) { size_t i = 0; while (n > 127) { p[i++] = (n & 127) | 128; n >>= 7; } p[i++] = n; return i; }

static void submit(Conn *k) {
  Key *key = &keys[k->target][rnd() % n_keys[k->target]];
  size_t room = 64 + key->size + (value_size > 0 ? value_size : 0) + extra_size, n = 5;
  Call *c = malloc(sizeof *c + room);
  c->status = -1; c->sent = 0;
  c->body[n++] = 10; n += varint(c->body + n, key->size); memcpy(c->body + n, key->text, key->size); n += key->size;
  if (value_size >= 0) {
    c->body[n++] = 18; n += varint(c->body + n, value_size);
    for (int i = 0; i < value_size; i += 8) { uint64_t r = rnd(); memcpy(c->body + n + i, &r, value_size - i < 8 ? value_size - i : 8); }
    n += value_size;
  }
  memcpy(c->body + n, extra, extra_size); n += extra_size;
  c->body[0] = 0; uint32_t len = htonl(n - 5); memcpy(c->body + 1, &len, 4);
  c->size = n; c->start = now_us();
#define H(k, v) { (uint8_t *)k, (uint8_t *)(v), sizeof(k) - 1, strlen(v), NGHTTP2_NV_FLAG_NONE }
  nghttp2_nv h[] = { H(":method", "POST"), H(":scheme", "http"), H(":path", path), H(":authority", targets[k->target]),
                     H("content-type", "application/grpc"), H("te", "trailers") };
  nghttp2_data_provider d = { .source.ptr = c, .read_callback = read_body };
  if (nghttp2_submit_request(k->h2, NULL, h, 6, &d, c) < 0) { free(c); transport_errors++; return; }
  k->in_flight++;
}

static int on_header(nghttp2_session *s, const nghttp2_frame *f, const uint8_t *name, size_t nl, const uint8_t *v, size_t vl, uint8_t fl, void *u) {
  Call *c = nghttp2_session_get_stream_user_data(s, f->hd.stream_id);
  if (c && nl == 11 && !memcmp(name, "grpc-status", 11)) c->status = atoi((const char *)v);
  return 0;
}
static int on_close(nghttp2_session *s, int32_t id, uint32_t code, void *u) {
  Conn *k = u;
  Call *c = nghttp2_session_get_stream_user_data(s, id);
  if (!c) return 0;
  int64_t t = now_us();
  total += c->status == 0;
  if (t >= t_count && t < t_end) {
    if (c->status == 0) {
      good++; histogram[bucket(t - c->start)]++;
      if (t - c->start > slowest) slowest = t - c->start;
      timeline[(t - t_count) / 100000]++;
    } else if (c->status > 0 && c->status < 17) bad[c->status]++;
    else transport_errors++;
  }
  free(c); k->in_flight--;
  if (t < t_end) submit(k);
  return 0;
}
/* Frames are gathered, so that a burst of calls costs one system call. 1: would block, -1: broken. */
static int flush(Conn *k) {
  for (;;) {
    while (k->to - k->from == 0 || k->to < sizeof k->out / 2) {
      if (k->from == k->to) k->from = k->to = 0;
      const uint8_t *d; ssize_t n = nghttp2_session_mem_send(k->h2, &d);
      if (n < 0) return -1;
      if (n == 0) break;
      memcpy(k->out + k->to, d, n); k->to += n;
    }
    if (k->from == k->to) return 0;
    ssize_t r = send(k->fd, k->out + k->from, k->to - k->from, MSG_NOSIGNAL);
    if (r < 0) return errno == EAGAIN ? 1 : -1;
    k->from += r;
    if (k->from == k->to) k->from = k->to = 0;
  }
}
static ssize_t on_recv(nghttp2_session *s, uint8_t *d, size_t n, int fl, void *u) {
  ssize_t r = recv(((Conn *)u)->fd, d, n, 0);
  return r > 0 ? r : r == 0 ? NGHTTP2_ERR_EOF : errno == EAGAIN ? NGHTTP2_ERR_WOULDBLOCK : NGHTTP2_ERR_CALLBACK_FAILURE;
}

static void drop(Conn *k) { epoll_ctl(epfd, EPOLL_CTL_DEL, k->fd, NULL); close(k->fd); k->dead = 1; if (now_us() < t_end) transport_errors++; }
static void pump(Conn *k, int readable) {
  if (k->dead) return;
  int blocked = 0;
  if ((readable && nghttp2_session_recv(k->h2)) || (blocked = flush(k)) < 0) { drop(k); return; }
  struct epoll_event e = { EPOLLIN | (blocked ? EPOLLOUT : 0), { .ptr = k } };
  epoll_ctl(epfd, EPOLL_CTL_MOD, k->fd, &e);
}
static void open_conn(Conn *k, int target) {
  char host[64]; int port;
  if (sscanf(targets[target], "%63[^:]:%d", host, &port) != 2) { fprintf(stderr, "bad target %s\n", targets[target]); exit(2); }
  struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port) };
  inet_pton(AF_INET, host, &a.sin_addr);
  k->fd = socket(AF_INET, SOCK_STREAM, 0); k->target = target;
  if (connect(k->fd, (void *)&a, sizeof a)) { fprintf(stderr, "%s: %s\n", targets[target], strerror(errno)); exit(2); }
  int one = 1; setsockopt(k->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  fcntl(k->fd, F_SETFL, O_NONBLOCK);
  nghttp2_session_callbacks *cb; nghttp2_session_callbacks_new(&cb);
  nghttp2_session_callbacks_set_recv_callback(cb, on_recv);
  nghttp2_session_callbacks_set_on_header_callback(cb, on_header);
  nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_close);
  nghttp2_session_client_new(&k->h2, cb, k);
  nghttp2_settings_entry s[] = { { NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 1 << 24 } };
  nghttp2_submit_settings(k->h2, NGHTTP2_FLAG_NONE, s, 1);
  nghttp2_session_set_local_window_size(k->h2, NGHTTP2_FLAG_NONE, 0, 1 << 28);
  struct epoll_event e = { EPOLLIN | EPOLLOUT, { .ptr = k } };
  epoll_ctl(epfd, EPOLL_CTL_ADD, k->fd, &e);
  for (int i = 0; i < width; i++) submit(k);
}

int main(int argc, char **argv) {
  const char *keys_file = NULL; int o;
  while ((o = getopt(argc, argv, "t:p:k:c:m:v:x:s:w:r:i")) != -1) switch (o) {
    case 't': for (char *s = strtok(optarg, ","); s && n_targets < MAX_TARGETS; s = strtok(NULL, ",")) targets[n_targets++] = s; break;
    case 'p': path = optarg; break;
    case 'k': keys_file = optarg; break;
    case 'c': per_target = atoi(optarg); break;
    case 'm': width = atoi(optarg); break;
    case 'v': value_size = atoi(optarg); break;
    case 'x': for (char *s = optarg; s[0] && s[1] && extra_size < 256; s += 2) { unsigned b; sscanf(s, "%2x", &b); extra[extra_size++] = b; } break;
    case 's': seconds = atof(optarg); break;
    case 'w': warmup = atof(optarg); break;
    case 'r': rng = strtoull(optarg, NULL, 10) * 2654435761u | 1; break;
    case 'i': show_timeline = 1; break;
    default: return 2;
  }
  FILE *f = keys_file ? fopen(keys_file, "r") : NULL;
  if (!f || !path || !n_targets) { fprintf(stderr, "grpcload -t TARGETS -p PATH -k KEYS_FILE …\n"); return 2; }
  int t; char text[512];
  while (fscanf(f, "%d %511s", &t, text) == 2) {
    if (t < 0 || t >= n_targets) { fprintf(stderr, "keys file: no target %d\n", t); return 2; }
    if (!(n_keys[t] & (n_keys[t] + 1))) keys[t] = realloc(keys[t], sizeof(Key) * 2 * (n_keys[t] + 1));
    keys[t][n_keys[t]++] = (Key){ strdup(text), strlen(text) };
  }
  epfd = epoll_create1(0);
  t0 = now_us(); t_count = t0 + warmup * 1e6; t_end = t_count + seconds * 1e6;
  timeline = calloc(seconds * 10 + 2, sizeof *timeline);
  Conn *conns = calloc(n_targets * per_target, sizeof *conns); int n = 0;
  for (int i = 0; i < n_targets; i++) if (n_keys[i]) for (int j = 0; j < per_target; j++) open_conn(&conns[n++], i);
  struct epoll_event ev[64];
  while (now_us() < t_end + 200000) {
    int busy = 0, r = epoll_wait(epfd, ev, 64, 50);
    for (int i = 0; i < r; i++) pump(ev[i].data.ptr, ev[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR));
    for (int i = 0; i < n; i++) busy += !conns[i].dead && conns[i].in_flight;
    if (!busy) break;
  }
  printf("{\"good\": %lu, \"total\": %lu, \"per_second\": %.1f, \"transport_errors\": %lu, \"bad\": {", good, total, good / seconds, transport_errors);
  for (int i = 1, first = 1; i < 17; i++) if (bad[i]) { printf("%s\"%d\": %lu", first ? "" : ", ", i, bad[i]); first = 0; }
  printf("}");
  double q[] = { 0.5, 0.9, 0.99, 0.999 }; const char *qn[] = { "p50", "p90", "p99", "p999" };
  for (int i = 0; i < 4; i++) {
    uint64_t want = good * q[i], sum = 0; int b = 0;
    for (; b < BUCKETS - 1; b++) if ((sum += histogram[b]) > want) break;
    printf(", \"%s_us\": %ld", qn[i], good ? (long)bucket_value(b) : -1L);
  }
  printf(", \"max_us\": %ld", (long)slowest);
  if (show_timeline) {
    printf(", \"per_100ms\": [");
    for (int i = 0; i < (int)(seconds * 10); i++) printf("%s%lu", i ? ", " : "", timeline[i]);
    printf("]");
  }
  printf("}\n");
  return 0;
}
