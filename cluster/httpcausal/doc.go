// Package httpcausal takes a session of package cluster from one service to another
// over HTTP, so that a read in one sees what was written in the other, whichever
// standbys they read from.
//
// On the server:
//
//	http.Handle("/orders", httpcausal.Middleware(orders))
//
// On the client:
//
//	client := &http.Client{Transport: httpcausal.Transport(nil)}
//
// The token of the session travels in the header [Header], with the request and back
// with its answer. Browsers and other programs take part by sending back the token
// that they got last.
//
// # What is in the answer's token
//
// Headers go out before the body. So the token has what the session wrote and read
// until the handler wrote the first byte of its answer, or returned. Write to the
// database first.
//
// # Who may send one
//
// A token is no secret and no permission. Whoever makes one up has the reads of his
// own request wait, or go to the primary. Where that is too much for strangers, have
// the gateway drop the header from outside. For the same reason the client's transport
// is for services of your own.
//
// # Files
//
//	middleware.go  requests that come in
//	writer.go      the moment before an answer begins
//	transport.go   requests that go out
package httpcausal
