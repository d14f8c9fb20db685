package main

import (
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	const (
		pass = `{"Action":"output","Package":"p","Test":"TestA","Output":"chatter\n"}
{"Action":"pass","Package":"p","Test":"TestA","Elapsed":1}
{"Action":"pass","Package":"p","Elapsed":1.25}
`
		fail = `{"Action":"output","Package":"p","Test":"TestB","Output":"why\n"}
{"Action":"fail","Package":"p","Test":"TestB"}
{"Action":"fail","Package":"p"}
`
		skip = `{"Action":"output","Package":"p","Test":"TestC","Output":"run make peers\n"}
{"Action":"skip","Package":"p","Test":"TestC"}
`
	)
	for _, c := range []struct {
		name, in, want string
		ok             bool
	}{
		{"pass", pass, "pass p 1.2s\n1 passed, 0 failed, 0 skipped\n", true},
		{"fail", pass + fail, "pass p 1.2s\nwhy\nfail p 0.0s\n1 passed, 1 failed, 0 skipped\n", false},
		{"skip", skip + pass, "run make peers\npass p 1.2s\n1 passed, 0 failed, 1 skipped\n", false},
		{"no test", `{"Action":"skip","Package":"p"}`, "0 passed, 0 failed, 0 skipped\n", false},
		{
			"no build",
			pass + `{"ImportPath":"q","Action":"build-output","Output":"q.go:1: syntax error\n"}{"ImportPath":"q","Action":"build-fail"}`,
			"pass p 1.2s\nq.go:1: syntax error\n1 passed, 0 failed, 0 skipped\n", false,
		},
		{
			"panic outside a test",
			pass + `{"Action":"output","Package":"q","Output":"panic\n"}{"Action":"fail","Package":"q"}`,
			"pass p 1.2s\npanic\nfail q 0.0s\n1 passed, 0 failed, 0 skipped\n", false,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out strings.Builder
			ok, err := run(strings.NewReader(c.in), &out)
			if err != nil || ok != c.ok || out.String() != c.want {
				t.Errorf("%v %v\n%s\nwant %v\n%s", ok, err, out.String(), c.ok, c.want)
			}
		})
	}
	if _, err := run(strings.NewReader("not JSON"), new(strings.Builder)); err == nil {
		t.Error("no error for what is no event")
	}
}
