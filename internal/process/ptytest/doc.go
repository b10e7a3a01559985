// Package ptytest runs programs on a terminal, for tests. It needs Linux.
package ptytest
