// Package httptenant puts the tenant of an HTTP request into its context, where
// package tenancy finds it.
//
//	tenant := httptenant.Middleware(httptenant.Subdomain("example.com"))
//	http.Handle("/orders", tenant(orders))
//
// The tenant comes from a [Source]: a header, the subdomain, a part of the path,
// or a function that knows more, such as who is logged in. A request without a
// tenant, or with one that makes no sense, does not reach the handler.
//
// # Who says so
//
// Whatever comes in the request itself, anybody can send. A header, a subdomain or
// a path tells which tenant is meant, not that its sender may be that tenant: let
// a gateway set the header and drop it from outside, or compare the tenant with
// the one of the verified token in a [Func].
//
// # Files
//
//	source.go     where a tenant comes from
//	subdomain.go  the one in front of a domain
//	middleware.go what becomes of a request
package httptenant
