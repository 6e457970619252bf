// Package fault breaks the connection between a program and PostgreSQL, at the
// moment a test asks for. A [Proxy] stands between the two and follows the
// protocol, so that a fault can be bound to an exact message:
//
//	unheard := fault.On(fault.Commit(), fault.SwallowReply)
//	p := fault.New(t, pgtest.NewDB(t), unheard)
//	db, err := pgkeel.Open(ctx, p.DSN())
//	…
//	<-unheard.Fired() // the server has committed, and the client never hears of it
//
// # Rules
//
// A rule is a [Match], which says at what message, and an [Action], which says
// what happens there. It fires once, at the first message that matches, unless
// [Match.Nth] or [Match.Every] ask otherwise; it counts over all connections of
// the proxy.
//
//	fault.On(fault.Backend('C').Nth(3), fault.CutAfter)         // after the third CommandComplete
//	fault.On(fault.Commit(), fault.Cut)                         // before COMMIT reaches the server
//	fault.On(fault.SQL("insert into orders"), fault.CutReply)   // it is done, and the connection lost
//	fault.On(fault.Backend('Z').Every(), fault.Delay(time.Second))
//	fault.On(fault.Cancel().Every(), fault.Drop)                // cancel requests get lost
//
// Where several rules fire at one message, all of them act, in their order, until
// one has ended the connection. [EachMessage] runs a scenario with a fault at its
// first message, at its second, and so on to its last.
//
// # The connection as a whole
//
// [Proxy.Cut], [Proxy.Reset] and [Proxy.BlackHole] do without a message, and
// [Proxy.Heal] ends a black hole. Latency and bandwidth are in the package toxic
// below this one, a module of its own, whose proxy can also do all that is here.
//
// # Encryption
//
// The proxy must read what passes, so it speaks neither TLS nor GSS; its DSN says
// sslmode=disable, and a server that insists on TLS cannot be used.
package fault
