package figures

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

const whole = `{"machine":{"cores":2,"memory_bytes":8589934592,"kernel":"6.12"},"versions":{"zmap":"2.1.1"},"commands":{"zmap":"zmap -p 11434"},
"rows":[{"bench":"scan","series":"hosts/s","x":1000,"unit_x":"hosts","y":5999.5,"unit_y":"hosts/s","round":1,"peer":"gatehouse"},
{"bench":"scan","series":"hosts/s","x":1000,"unit_x":"hosts","y":0,"unit_y":"hosts/s","round":2,"peer":"gatehouse"}]}`

func TestRead(t *testing.T) {
	f, err := Read(strings.NewReader(whole))
	if err != nil {
		t.Fatal(err)
	}
	want := Row{"scan", "hosts/s", 1000, "hosts", 5999.5, "hosts/s", 1, "gatehouse"}
	if len(f.Rows) != 2 || f.Rows[0] != want {
		t.Errorf("rows %+v", f.Rows)
	}
	if f.Versions["zmap"] != "2.1.1" || f.Commands["zmap"] != "zmap -p 11434" || f.Machine["kernel"] != "6.12" {
		t.Errorf("%+v", f)
	}
}

// A row that says nothing, or would hide another, is an error that says where.
func TestReadRefuses(t *testing.T) {
	row := func(change, to string) string {
		return strings.Replace(whole, change, to, 1)
	}
	for name, c := range map[string]struct{ text, want string }{
		"nothing":        {"", "EOF"},
		"no rows":        {`{"rows":[]}`, "no rows"},
		"cut off":        {whole[:len(whole)-3], "EOF"},
		"two files":      {whole + whole, "more than one value"},
		"no bench":       {row(`"bench":"scan"`, `"bench":""`), "row 1: no bench"},
		"no series":      {row(`"series":"hosts/s"`, `"series":" "`), "row 1: no series"},
		"no peer":        {row(`"peer":"gatehouse"`, `"peer":""`), "row 1: no peer"},
		"no unit":        {row(`"unit_y":"hosts/s"`, `"unit_y":""`), "row 1: no unit_y"},
		"not a number":   {row(`"y":5999.5`, `"y":"fast"`), "y"},
		"too great":      {row(`"y":5999.5`, `"y":1e999`), "y"},
		"the same round": {row(`"round":2`, `"round":1`), "row 2: another figure for what row 1 tells of"},
		"too long":       {whole + strings.Repeat(" ", Largest), "more than"},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := Read(strings.NewReader(c.text))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%+v, %v, want %q", f, err, c.want)
			}
		})
	}
}

// What was read is written so that it reads the same, a row a line.
func TestWrite(t *testing.T) {
	f, err := Read(strings.NewReader(whole))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "f.json")
	if err := f.Write(path); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Read(bytes.NewReader(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if !reflect.DeepEqual(f, again) {
		t.Errorf("%+v\n%+v", f, again)
	}
	if n := bytes.Count(text, []byte("\n  {")); n != 2 {
		t.Errorf("%d rows have a line of their own\n%s", n, text)
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(whole))
	f.Add([]byte(`{"rows":[{}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		read, err := Read(bytes.NewReader(text))
		if err != nil {
			return
		}
		path := filepath.Join(t.TempDir(), "f.json")
		if err := read.Write(path); err != nil {
			t.Fatal(err)
		}
		out, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if len(out) > Largest {
			return
		}
		if _, err := Read(bytes.NewReader(out)); err != nil {
			t.Fatalf("what was read does not read again: %v\n%s", err, out)
		}
	})
}

func TestHere(t *testing.T) {
	m := Here()
	for _, name := range []string{"system", "cores", "go"} {
		if m[name] == nil {
			t.Errorf("no %s in %v", name, m)
		}
	}
}

func TestCounts(t *testing.T) {
	if got, err := Counts("1000, 20"); err != nil || !slices.Equal(got, []int{1000, 20}) {
		t.Error(got, err)
	}
	for _, list := range []string{"", "1000,x", "0", "-1"} {
		if _, err := Counts(list); err == nil {
			t.Errorf("%q is a list of numbers", list)
		}
	}
}
