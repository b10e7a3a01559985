// Bench measures SOCKS 5 servers side by side, over loopback and in interleaved rounds: throughput, connections per
// second, latency, memory of idle sessions and UDP, each with what it costs the server.
//
//	go run ./bench -start all -rounds 3
//	go run ./bench -server argyle=127.0.0.1:1080 -server danted=127.0.0.1:1081,pid=4711 -only bulk,connect
//
// It needs Linux: processor time and memory are read from /proc. README.md says how to read the tables.
package main
