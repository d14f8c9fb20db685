package finding_test

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gatehouse/internal/evidence"
	"gatehouse/internal/finding"
	"gatehouse/internal/ollama"
	"gatehouse/internal/ollama/ollamatest"
	"gatehouse/internal/probe"
	"gatehouse/internal/scope"
	"gatehouse/internal/sweep"
	"gatehouse/internal/target"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// look probes every house of a street as a scan does. A few at a time, and with
// time to spare: what a host is must not hang on what else the machine does. The
// budget of those that would hold on to a probe is short, as they use it up.
func look(t *testing.T, street *ollamatest.Street, prove bool) []evidence.Host {
	t.Helper()
	checker := (&scope.Scope{Local: true}).Checker()
	allows := func(a netip.Addr) error { return checker.Allows(a, time.Now()) }
	sweeper := &sweep.Sweeper{Allows: allows}
	patient := probe.Prober{
		Allows: allows, Dial: sweeper.Dial, UserAgent: "Gatehouse/test (+mailto:test@example.org)",
		Prove: prove, Budget: probe.Budget{Reply: 10 * time.Second, Time: time.Minute},
	}
	if prove {
		patient.Details = 4
	}
	hasty := patient
	hasty.Budget = probe.Budget{Reply: 2500 * time.Millisecond, Time: 6 * time.Second}
	hosts := make([]evidence.Host, len(street.Houses))
	var wg sync.WaitGroup
	turns := make(chan struct{}, 32)
	for i, house := range street.Houses {
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			prober := &patient
			if o := house.Server.Truth.Outcome; o == "broken" || o == "silent" {
				prober = &hasty
			}
			place := target.Place{
				Addr: house.Addr.Addr(), Port: house.Addr.Port(), Path: house.Server.Path, Target: house.Addr.String(),
			}
			if house.Server.Path != "" {
				place.Scheme = "http"
			}
			conn, err := sweeper.Dial(t.Context(), place.AddrPort())
			if err != nil {
				conn = nil // the probe tries again, and says what it saw
			}
			hosts[i] = prober.Probe(context.WithoutCancel(t.Context()), place, conn)
		})
	}
	wg.Wait()
	return hosts
}

// TestConfusion looks at every variant of the simulator, with proofs and
// without, and holds the confusion matrix to the one that was agreed on.
func TestConfusion(t *testing.T) {
	servers := ollamatest.Variants()
	if len(servers) < 200 {
		t.Fatalf("only %d variants", len(servers))
	}
	rules := finding.Rules{Advisories: ollama.Default()}
	var golden strings.Builder
	for _, prove := range []bool{false, true} {
		houses := make([]ollamatest.House, len(servers))
		for i, s := range servers {
			s.Reset()
			houses[i].Server = s
		}
		street, err := ollamatest.Open(houses...)
		if err != nil {
			t.Fatal(err)
		}
		hosts := look(t, street, prove)

		matrix := make(map[[2]string]int)
		wrong := 0
		for i := range hosts {
			s := servers[i]
			v := rules.Judge(&hosts[i])
			truth := s.Truth.Outcome
			if !prove && s.Truth.Unproved != "" {
				truth = s.Truth.Unproved
			}
			got := string(v.Outcome)
			if got == s.Truth.Or {
				got = truth
			}
			matrix[[2]string{truth, got}]++
			if got != truth {
				wrong++
				t.Errorf("prove=%v %s: %s, want %s (%s) %+v", prove, s.Name, v.Outcome, truth, v.Reason, v.Identity)
			}
			checkVerdict(t, s, &v, prove)
		}
		if harm := street.Harm(); len(harm) > 0 {
			t.Errorf("prove=%v: requests that would have done something: %q", prove, harm)
		}
		street.Close()
		fmt.Fprintf(&golden, "%d variants, %s: %d judged wrong\n\n", len(servers), map[bool]string{false: "reads only", true: "with proofs and details"}[prove], wrong)
		writeMatrix(&golden, matrix)
	}
	t.Log("\n" + golden.String())

	const file = "testdata/confusion.txt"
	if *update {
		if err := os.WriteFile(file, []byte(golden.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if golden.String() != string(want) {
		t.Errorf("the matrix is not the one in %s:\n%s", file, golden.String())
	}
}

// checkVerdict holds what else is known of a variant.
func checkVerdict(t *testing.T, s *ollamatest.Server, v *finding.Verdict, prove bool) {
	t.Helper()
	if v.Outcome != finding.Open && slices.ContainsFunc(v.Findings, func(f finding.Finding) bool { return f.ID == "ollama-open" }) {
		t.Errorf("%s: ollama-open on a host that is %s", s.Name, v.Outcome)
	}
	if v.Outcome != finding.Open {
		return
	}
	if v.Identity.Product != "ollama" || v.Identity.Version != s.Truth.Version {
		t.Errorf("%s: identified as %s %s, want ollama %s", s.Name, v.Identity.Product, v.Identity.Version, s.Truth.Version)
	}
	gives := s.Truth.Powers()
	for _, p := range []ollama.Power{ollama.Hello, ollama.Read, ollama.Infer, ollama.Manage} {
		state := v.Powers.Of(p)
		switch {
		case gives[p] && state == finding.Denied:
			t.Errorf("%s: %s denied, and it is given", s.Name, p)
		case !gives[p] && (state == finding.Proven || prove && state == finding.Reachable):
			t.Errorf("%s: %s %s, and it is denied", s.Name, p, state)
		case prove && gives[p] && state != finding.Proven:
			t.Errorf("%s: %s is %s, want proven", s.Name, p, state)
		}
	}
}

func writeMatrix(b *strings.Builder, matrix map[[2]string]int) {
	outcomes := finding.Outcomes
	fmt.Fprintf(b, "%-10s", "is \\ seen")
	for _, o := range outcomes {
		fmt.Fprintf(b, "%10s", o)
	}
	b.WriteString("\n")
	for _, truth := range outcomes {
		fmt.Fprintf(b, "%-10s", truth)
		for _, got := range outcomes {
			cell := "."
			if n := matrix[[2]string{string(truth), string(got)}]; n > 0 {
				cell = fmt.Sprint(n)
			}
			fmt.Fprintf(b, "%10s", cell)
		}
		b.WriteString("\n")
	}
	b.WriteString("\n")
}
