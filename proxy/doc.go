// Package proxy is the path of a call, the same for every way in and every way
// out: choose a route, dial, answer, relay, account. It begins in
// [Proxy.ServeCall].
package proxy
