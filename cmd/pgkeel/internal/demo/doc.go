// Package demo is the command pgkeel demo: a primary, a streaming replica and a
// hundred thousand real places, and what pgkeel does with them.
//
// The demo is a list of scenes, each in a file of its own. A scene gets the
// [environment], does one thing with it through the handle, tells what happened
// and checks it against what is known from elsewhere: the data's source, or what
// an observer sees on the server. To add one, write its function and put it into
// [scenes].
//
// Every check must hold for the command to succeed. Whatever happens, an
// interrupt included, no process and no folder is left behind.
package demo
