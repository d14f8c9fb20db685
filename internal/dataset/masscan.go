package dataset

import (
	"bytes"
	"errors"
	"strings"

	"gatehouse/internal/evidence"
)

// masscanJSON reads -oJ, an array whose last item may be {finished: 1} or
// followed by a comma, and -oD, which has one port a line.
type masscanJSON struct{}

type masscanPort struct {
	Port    word `json:"port"`
	Proto   word `json:"proto"`
	Status  word `json:"status"`
	Reason  word `json:"reason"`
	Service maybe[struct {
		Name   word `json:"name"`
		Banner word `json:"banner"`
	}] `json:"service"`
}

func (masscanJSON) parse(record []byte, emit func(Row) error) error {
	if inner := bytes.TrimLeft(record[1:], " \t\r\n\""); bytes.HasPrefix(inner, []byte("finished")) {
		return nil
	}
	var r struct {
		IP        word                 `json:"ip"`
		Timestamp word                 `json:"timestamp"`
		Ports     several[masscanPort] `json:"ports"`
		masscanPort
		Kind word               `json:"rec_type"`
		Data maybe[masscanData] `json:"data"`
	}
	if err := unmarshal(record, &r); err != nil {
		return err
	}
	if r.Kind != "" {
		p := r.masscanPort
		p.Status, p.Reason = r.Data.T.Status, r.Data.T.Reason
		p.Service.ok = r.Kind == "banner"
		p.Service.T.Name, p.Service.T.Banner = r.Data.T.Name, r.Data.T.Banner
		r.Ports = several[masscanPort]{p}
	}
	var bad error
	for _, p := range r.Ports {
		s, err := masscanStory(r.IP, p.Port, r.Timestamp)
		if err != nil {
			bad = err
			continue
		}
		if p.Proto != "" && p.Proto != "tcp" {
			continue
		}
		if p.Status == "closed" {
			if err := s.closed(evidence.Refused, "connection refused", emit); err != nil {
				return err
			}
			continue
		}
		if isPart(string(p.Service.T.Name)) {
			continue
		}
		if p.Service.ok {
			s.banner(string(p.Service.T.Name), string(p.Service.T.Banner))
		}
		if err := s.end(emit); errors.Is(err, errStop) {
			return err
		}
	}
	return bad
}

type masscanData struct {
	Status word `json:"status"`
	Reason word `json:"reason"`
	Name   word `json:"service_name"`
	Banner word `json:"banner"`
}

func masscanStory(ip, port, when word) (*story, error) {
	addr, p, err := placeOf(ip, port)
	if err != nil {
		return nil, err
	}
	s := &story{source: "masscan"}
	s.Host = hostAt(addr, p)
	s.Host.ObservedAt = timeOf(string(when))
	return s, nil
}

// banner takes what a port said first, or after GET /.
func (s *story) banner(service, text string) {
	if !s.raw(evidence.Root, unescape(text)) && !isHTTP(service) {
		s.others = append(s.others, service)
	}
}

// isPart reports whether a record of masscan's holds but a part of an answer
// that another record holds, of a port that a third one calls open.
func isPart(service string) bool {
	switch service {
	case "title", "html", "http.server", "ssl", "X509", "X509CA", "vuln":
		return true
	}
	return false
}

// closed hands out a place whose port was not open.
func (s *story) closed(reach evidence.Reach, reason string, emit func(Row) error) error {
	s.Host.Reach, s.Host.Reason = reach, reason
	return emit(s.Row)
}

// masscanList reads -oL: "open tcp 11434 192.0.2.1 1764000000", and "banner"
// with the service and its words after that.
type masscanList struct{}

func (masscanList) parse(record []byte, emit func(Row) error) error {
	line := strings.TrimSpace(string(record))
	if line == "" || line[0] == '#' {
		return nil
	}
	f := strings.SplitN(line, " ", 7)
	if len(f) < 5 {
		return errors.New("not a line of masscan's list")
	}
	s, err := masscanStory(word(f[3]), word(f[2]), word(f[4]))
	switch {
	case err != nil:
		return err
	case f[1] != "tcp":
		return nil
	}
	switch f[0] {
	case "open":
		return s.end(emit)
	case "closed":
		return s.closed(evidence.Refused, "connection refused", emit)
	case "banner":
		if len(f) > 5 && isPart(f[5]) {
			return nil
		}
		if len(f) == 7 {
			s.banner(f[5], f[6])
		}
		return s.end(emit)
	}
	return errors.New("not a line of masscan's list")
}
