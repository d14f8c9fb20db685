package report_test

import (
	"encoding/json"
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	_ "github.com/owenrumney/go-sarif/v3/pkg/report/v210/sarif" // its source holds the schema
	"github.com/xeipuuv/gojsonschema"

	"gatehouse/internal/report"
	"gatehouse/internal/wave"
)

// sarifLog is what the tests look at.
type sarifLog struct {
	Runs []struct {
		Tool struct {
			Driver struct {
				Name, Version string
				Rules         []struct {
					ID                     string
					ShortDescription, Help struct{ Text string }
					Properties             struct {
						SecuritySeverity string `json:"security-severity"`
					}
				}
			}
		}
		Invocations []struct{ ExecutionSuccessful bool }
		Results     []struct {
			RuleID, Level       string
			RuleIndex           int
			PartialFingerprints map[string]string
			Locations           []struct {
				PhysicalLocation struct{ ArtifactLocation struct{ URI string } }
			}
		}
	}
}

// schema is the SARIF 2.1.0 schema that go-sarif carries. Its own Validate
// looks at what its types kept of a log; the schema itself looks at every byte,
// so it is read out of the module's source.
func schema(t *testing.T) *gojsonschema.Schema {
	t.Helper()
	pkg, err := build.Import("github.com/owenrumney/go-sarif/v3/pkg/report/v210/sarif", ".", build.FindOnly)
	if err != nil {
		t.Fatal(err)
	}
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(pkg.Dir, "schema.go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	text := ""
	ast.Inspect(file, func(n ast.Node) bool {
		if c, ok := n.(*ast.BasicLit); ok && c.Kind == token.STRING && len(c.Value) > len(text) {
			text, err = strconv.Unquote(c.Value)
		}
		return true
	})
	if err != nil || !strings.Contains(text, "(SARIF) Version 2.1.0 JSON Schema") {
		t.Fatalf("no schema in %s: %v", pkg.Dir, err)
	}
	s, err := gojsonschema.NewSchema(gojsonschema.NewStringLoader(text))
	if err != nil {
		t.Fatal(err)
	}
	// A schema that lets everything pass would prove nothing.
	for _, wrong := range []string{
		`{}`, `{"version":"2.1.0","runs":[{}]}`,
		`{"version":"2.1.0","runs":[{"tool":{"driver":{"name":"x"}},"results":[{"message":{"text":"x"},"level":"critical"}]}]}`,
		`{"version":"2.1.0","runs":[{"tool":{"driver":{"name":"x"}},"results":[{"message":{"text":"x"},"remedy":"x"}]}]}`,
	} {
		if result, err := s.Validate(gojsonschema.NewStringLoader(wrong)); err != nil || result.Valid() {
			t.Fatalf("the schema takes %s (%v)", wrong, err)
		}
	}
	return s
}

// sarif writes records as SARIF, holds every byte against the schema, and reads
// it back.
func sarif(t *testing.T, schema *gojsonschema.Schema, records []wave.Record, sum wave.Summary) sarifLog {
	t.Helper()
	var b strings.Builder
	if err := report.SARIF(&b, "1.2.3", sum, report.Records(records)); err != nil {
		t.Fatal(err)
	}
	safeToShow(t, b.String())
	result, err := schema.Validate(gojsonschema.NewStringLoader(b.String()))
	if err != nil {
		t.Fatalf("%v in %s", err, b.String())
	}
	for _, e := range result.Errors() {
		t.Error(e)
	}
	var log sarifLog
	if err := json.Unmarshal([]byte(b.String()), &log); err != nil {
		t.Fatal(err)
	}
	return log
}
