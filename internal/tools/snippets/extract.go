package main

import (
	"fmt"
	"regexp"
	"strings"
)

// A block is a fenced piece of Go code.
type block struct {
	file string
	line int // of the first line of code
	code string
}

var fence = regexp.MustCompile("^\\s*(?:>\\s*)?(`{3,}|~{3,})\\s*(.*?)\\s*$")

// blocks returns the Go blocks of a Markdown file.
func blocks(file, text string) ([]block, error) {
	var found []block
	var open string // the fence that has to be closed
	var code *block // nil in a block of another language
	for i, line := range strings.Split(text, "\n") {
		m := fence.FindStringSubmatch(line)
		switch {
		case open == "" && m != nil:
			open = m[1]
			words := strings.Fields(m[2])
			if len(words) == 0 || !isGo(words[0]) {
				continue
			}
			if len(words) > 1 || words[0] != "go" {
				return nil, fmt.Errorf("%s:%d: a fence says %q; only \"go\" is allowed, every block is compiled", file, i+1, m[2])
			}
			code = &block{file: file, line: i + 2}
		case open != "" && m != nil && strings.HasPrefix(m[1], open) && m[2] == "":
			if code != nil {
				found = append(found, *code)
			}
			open, code = "", nil
		case code != nil:
			code.code += line + "\n"
		}
	}
	if open != "" {
		return nil, fmt.Errorf("%s: a fenced block is not closed", file)
	}
	return found, nil
}

// isGo recognises the language, however it is spelled and whatever is stuck to it.
func isGo(language string) bool {
	name, _, _ := strings.Cut(strings.ToLower(language), ",")
	return name == "go" || name == "golang"
}
