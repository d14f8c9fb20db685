// Package realollama runs the real Ollama for tests: the pinned release that
// scripts/peers.sh installs, on a free loopback port, with a tiny model of our
// own making, and an nginx, with a password or not, to put in front of it.
// It never listens on, and never dials, anything but this machine's loopback:
// a server that is to be bound to every address gets a network of its own.
//
// Only tests import it. It needs a Unix, and Linux for [Everywhere] and
// [Apart]; what finds the peers ([Peer], [Program], [Missing], [Cache]) works
// everywhere.
package realollama
