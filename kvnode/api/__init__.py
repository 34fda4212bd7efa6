"""Translates gRPC into the house's words and back; the only rooms that know what a gRPC context is."""
