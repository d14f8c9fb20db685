package dataset

import (
	"bytes"
	"strings"

	"gatehouse/internal/evidence"
)

// shadowserver reads the daily CSV reports on what is open. Their columns come
// in any order, and differ by report; the common ones are timestamp, ip,
// protocol, port, hostname, tag, asn, geo, region, city, naics, sector.
type shadowserver struct{ table }

func (v *shadowserver) parse(record []byte, emit func(Row) error) error {
	if len(bytes.TrimSpace(record)) == 0 {
		return nil
	}
	if v.names == nil {
		v.header(record)
		return nil
	}
	if err := v.row(record); err != nil {
		return err
	}
	cell := func(name string) string { return string(v.get(name)) }
	addr, port, err := placeOf(word(cell("ip")), word(cell("port")))
	if err != nil {
		return err
	}
	if p := strings.ToLower(cell("protocol")); p != "" && p != "tcp" {
		return nil
	}
	s := story{source: "shadowserver"}
	s.Host = hostAt(addr, port)
	s.Host.ObservedAt = timeOf(cell("timestamp"))

	if tag := cell("tag"); namesOllama(tag) {
		if names := v.models(); len(names) > 0 {
			s.models(evidence.Tags, names)
		}
		s.product("ollama", cell("version"))
	} else if status, err := portOf(cell("http_code")); err == nil { // both are small numbers
		s.exchange(evidence.Exchange{
			Ask: evidence.Root, Status: int(status), Reason: cell("http_reason"),
			Header: fields("Content-Type", cell("content_type"), "WWW-Authenticate", cell("www_authenticate"),
				"Server", cell("server"), "Location", cell("http_location")),
		})
	} else if first, _, _ := strings.Cut(tag, ";"); !isHTTP(first) {
		s.others = append(s.others, first)
	}

	s.country(cell("geo"))
	s.claim("region", cell("region"))
	s.claim("city", cell("city"))
	s.claim("asn", number(word(cell("asn"))))
	s.claim("name", cell("as_name"))
	s.claim("hostname", cell("hostname"))
	s.claim("sector", cell("sector"))
	if naics := cell("naics"); naics != "0" {
		s.claim("naics", naics)
	}
	return s.end(emit)
}

// fields are the header fields among pairs of names and values that have a value.
func fields(pairs ...string) (header []evidence.Field) {
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			header = append(header, evidence.Field{Name: pairs[i], Value: pairs[i+1]})
		}
	}
	return header
}

// models are the models that a report on Ollama names: in JSON, or by name.
func (v *shadowserver) models() []model {
	text := bytes.TrimSpace(v.get("models"))
	if len(text) == 0 {
		return nil
	}
	var list several[model]
	if text[0] == '[' && unmarshal(text, &list) == nil {
		return list
	}
	for name := range strings.FieldsFuncSeq(string(text), func(r rune) bool { return strings.ContainsRune(";,| ", r) }) {
		list = append(list, model{Name: word(name)})
	}
	return list
}
