package dataset

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// Format is how an export is written, and by whose program.
type Format string

// The formats that can be read.
const (
	Shodan       Format = "shodan"       // JSON lines, a banner each, or the JSON of its API
	Censys       Format = "censys"       // JSON lines, an array, or the JSON of its API: hosts or services
	MasscanJSON  Format = "masscan-json" // -oJ, finished or not, and -oD
	MasscanXML   Format = "masscan-xml"  // -oX
	MasscanList  Format = "masscan-list" // -oL
	Nmap         Format = "nmap"         // -oX
	ZmapCSV      Format = "zmap-csv"     // a list of addresses, or -f with a header
	ZmapJSON     Format = "zmap-json"    // -O json
	Shadowserver Format = "shadowserver" // the CSV reports on open services
	Gatehouse    Format = "gatehouse"    // --format jsonl of a scan
)

// Formats lists every format.
var Formats = []Format{Shodan, Censys, MasscanJSON, MasscanXML, MasscanList, Nmap, ZmapCSV, ZmapJSON, Shadowserver, Gatehouse}

// reader returns what reads the format.
func (f Format) reader(in *bufio.Reader, o *Options) (frames, parser, error) {
	values := func() *values { return &values{in: in, limit: o.MaxRecord, line: 1} }
	lines := func() *lines { return &lines{in: in, limit: o.MaxRecord} }
	switch f {
	case Shodan:
		return values(), shodan{}, nil
	case Censys:
		return values(), censys{}, nil
	case MasscanJSON:
		return values(), masscanJSON{}, nil
	case ZmapJSON:
		return values(), zmapJSON{port: o.Port}, nil
	case Gatehouse:
		return values(), gatehouse{}, nil
	case MasscanList:
		return lines(), &masscanList{}, nil
	case ZmapCSV:
		return lines(), &zmapCSV{port: o.Port}, nil
	case Shadowserver:
		return lines(), &shadowserver{}, nil
	case Nmap:
		return &elements{in: in, limit: o.MaxRecord, line: 1}, xmlHosts{source: "nmap"}, nil
	case MasscanXML:
		return &elements{in: in, limit: o.MaxRecord, line: 1}, xmlHosts{source: "masscan"}, nil
	}
	return nil, nil, fmt.Errorf("format %q: %w", string(f), ErrFormat)
}

// detect finds out the format from the beginning of an export, and takes no
// more of it than it needs to, for another program may still be writing.
func detect(in *bufio.Reader) (Format, error) {
	for want := 1; ; {
		_, err := in.Peek(want)
		seen, _ := in.Peek(in.Buffered())
		ended := err != nil
		if f := formatOf(seen, ended); f != "" {
			return f, nil
		}
		if ended {
			if err != io.EOF && err != bufio.ErrBufferFull {
				return "", err
			}
			if len(bytes.TrimSpace(seen)) == 0 {
				return "", io.EOF // nothing was found, and nothing written
			}
			return "", ErrFormat
		}
		want = len(seen) + 1
	}
}

// formatOf is the format that begins with seen, "" when that cannot be said.
// What is begun and not ended counts only where nothing more can come.
func formatOf(seen []byte, ended bool) Format {
	text := bytes.TrimLeft(seen, " \t\r\n")
	switch {
	case len(text) == 0:
		return ""
	case text[0] == '<':
		if i := bytes.Index(text, []byte("<nmaprun")); i >= 0 {
			tag, _, closed := bytes.Cut(text[i:], []byte(">"))
			if closed || ended {
				if bytes.Contains(tag, []byte("masscan")) {
					return MasscanXML
				}
				return Nmap
			}
		}
		return ""
	case text[0] == '{' || text[0] == '[':
		return formatOfJSON(text)
	}
	for line := range bytes.Lines(text) {
		if line[len(line)-1] != '\n' && !ended {
			return ""
		}
		if f := formatOfLine(strings.TrimSpace(string(line[:min(len(line), 4096)]))); f != "" {
			return f
		}
	}
	return ""
}

func formatOfLine(line string) Format {
	switch first, _, _ := strings.Cut(line, " "); {
	case strings.HasPrefix(line, "#masscan"), first == "open", first == "banner":
		return MasscanList
	case line == "", line[0] == '#':
		return ""
	}
	cells, _ := splitCSV([]byte(line), nil)
	var names []string
	for _, c := range cells {
		names = append(names, columnName(c))
	}
	switch {
	case slices.Contains(names, "saddr"):
		return ZmapCSV
	case slices.Contains(names, "ip") && slices.Contains(names, "timestamp"):
		return Shadowserver
	}
	if _, err := netip.ParseAddr(string(cells[0])); err == nil {
		return ZmapCSV
	}
	return ""
}

// formatOfJSON goes by the names of the members of the first objects. The last
// object may not be whole.
func formatOfJSON(text []byte) Format {
	v := values{in: bufio.NewReaderSize(bytes.NewReader(text), 4096), limit: len(text) + 1, line: 1}
	for range 16 {
		record, _, err := v.next()
		if err == io.EOF {
			return ""
		}
		if len(record) > 0 {
			if f := formatOfMembers(record); f != "" {
				return f
			}
		}
	}
	return ""
}

func formatOfMembers(record []byte) Format {
	dec := jsontext.NewDecoder(bytes.NewReader(record), lenient...)
	if dec.PeekKind() != '{' {
		return ""
	}
	_, _ = dec.ReadToken()
	var names []string
	has := func(all ...string) bool {
		return !slices.ContainsFunc(all, func(n string) bool { return !slices.Contains(names, n) })
	}
	for {
		name, err := dec.ReadToken()
		if err != nil || name.Kind() != '"' {
			break
		}
		names = append(names, name.String())
		switch {
		case has("saddr"):
			return ZmapJSON
		case has("ip_str"), has("_shodan"), has("matches"):
			return Shodan
		case has("outcome", "identity"):
			return Gatehouse
		case has("ip", "ports"), has("ip", "rec_type"):
			return MasscanJSON
		case has("services"), has("service_name"), has("autonomous_system"), has("host"), has("result"), has("transport_protocol"):
			return Censys
		}
		if err := dec.SkipValue(); err != nil {
			break
		}
	}
	return ""
}
