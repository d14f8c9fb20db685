package dataset

import (
	"bytes"
	"cmp"
	"errors"
	"slices"

	"gatehouse/internal/evidence"
)

// zmapCSV reads a plain list of addresses, or what -f had written with its
// header. zmap knows no banner.
type zmapCSV struct {
	table
	port uint16
}

func (z *zmapCSV) parse(record []byte, emit func(Row) error) error {
	line := bytes.TrimSpace(record)
	if len(line) == 0 || line[0] == '#' {
		return nil
	}
	if z.names == nil {
		first, _, _ := bytes.Cut(line, []byte(","))
		if _, err := addrOf(string(bytes.Trim(first, `"`))); err == nil && !bytes.Contains(line, []byte(",")) {
			z.names = []string{"saddr"} // no header
		} else {
			z.header(line)
			if slices.Contains(z.names, "saddr") {
				return nil
			}
			z.names = nil
			return errors.New("no header that names saddr, and no address")
		}
	}
	if err := z.row(line); err != nil {
		return err
	}
	return zmapRow{
		addr: string(z.get("saddr")), port: string(z.get("sport")), class: string(z.get("classification")),
		success: string(z.get("success")), repeat: string(z.get("repeat")),
		when: cmp.Or(string(z.get("timestamp_ts")), string(z.get("timestamp_str"))),
	}.tell(z.port, emit)
}

// zmapRow is one answer to one packet.
type zmapRow struct{ addr, port, class, success, repeat, when string }

func (r zmapRow) tell(port uint16, emit func(Row) error) error {
	addr, err := addrOf(r.addr)
	if err != nil {
		return err
	}
	if r.port != "" {
		if port, err = portOf(r.port); err != nil {
			return err
		}
	}
	if r.repeat == "1" || r.repeat == "true" {
		return nil // the place was told of before
	}
	s := story{source: "zmap"}
	s.Host = hostAt(addr, port)
	s.Host.ObservedAt = timeOf(r.when)
	switch {
	case r.class == "rst":
		return s.closed(evidence.Refused, "connection refused", emit)
	case r.success == "0", r.success == "false":
		return s.closed(evidence.Silent, "no answer in time", emit)
	}
	return s.end(emit)
}

// zmapJSON reads -O json, an object a line.
type zmapJSON struct{ port uint16 }

func (z zmapJSON) parse(record []byte, emit func(Row) error) error {
	var r struct {
		Addr    word `json:"saddr"`
		Port    word `json:"sport"`
		Class   word `json:"classification"`
		Success word `json:"success"`
		Repeat  word `json:"repeat"`
		Seconds word `json:"timestamp_ts"`
		Time    word `json:"timestamp_str"`
		Older   word `json:"timestamp-str"`
	}
	if err := unmarshal(record, &r); err != nil {
		return err
	}
	return zmapRow{
		string(r.Addr), string(r.Port), string(r.Class), string(r.Success), string(r.Repeat),
		string(orElse(r.Seconds, orElse(r.Time, r.Older))),
	}.tell(z.port, emit)
}
