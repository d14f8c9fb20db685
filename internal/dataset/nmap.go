package dataset

import (
	"cmp"
	"encoding/xml"
	"errors"
	"strings"

	"gatehouse/internal/evidence"
)

// xmlHosts reads the <host> elements of nmap and of masscan, which writes XML
// as nmap does.
type xmlHosts struct{ source string }

type xmlHost struct {
	Start     string `xml:"starttime,attr"`
	End       string `xml:"endtime,attr"`
	Addresses []struct {
		Addr string `xml:"addr,attr"`
		Kind string `xml:"addrtype,attr"`
	} `xml:"address"`
	Names []struct {
		Name string `xml:"name,attr"`
	} `xml:"hostnames>hostname"`
	Ports []xmlPort `xml:"ports>port"`
}

type xmlPort struct {
	Protocol string `xml:"protocol,attr"`
	ID       string `xml:"portid,attr"`
	State    struct {
		State string `xml:"state,attr"`
	} `xml:"state"`
	Service struct {
		Name    string `xml:"name,attr"`
		Product string `xml:"product,attr"`
		Version string `xml:"version,attr"`
		Tunnel  string `xml:"tunnel,attr"`
		Method  string `xml:"method,attr"`
		Prints  string `xml:"servicefp,attr"`
		Banner  string `xml:"banner,attr"` // masscan's
	} `xml:"service"`
	Scripts []xmlScript `xml:"script"`
}

type xmlScript struct {
	ID     string     `xml:"id,attr"`
	Output string     `xml:"output,attr"`
	Tables []xmlTable `xml:"table"`
	Elems  []xmlElem  `xml:"elem"`
}

type xmlTable struct {
	Key   string    `xml:"key,attr"`
	Elems []xmlElem `xml:"elem"`
}

type xmlElem struct {
	Key  string `xml:"key,attr"`
	Text string `xml:",chardata"`
}

func (x xmlHosts) parse(record []byte, emit func(Row) error) error {
	var h xmlHost
	if err := xml.Unmarshal(record, &h); err != nil {
		return err
	}
	addr, err := addrOf("")
	for _, a := range h.Addresses {
		if a.Kind == "ipv4" || a.Kind == "ipv6" || a.Kind == "" {
			if addr, err = addrOf(a.Addr); err == nil {
				break
			}
		}
	}
	if err != nil {
		return err
	}
	var bad error
	for i := range h.Ports {
		p := &h.Ports[i]
		port, err := portOf(p.ID)
		if err != nil {
			bad = err
			continue
		}
		if p.Protocol != "tcp" {
			continue
		}
		s := &story{source: x.source}
		s.Host = hostAt(addr, port)
		s.Host.ObservedAt = timeOf(cmp.Or(h.End, h.Start))
		for _, n := range h.Names {
			s.claim("hostname", n.Name)
		}
		if err := s.port(p, emit); errors.Is(err, errStop) {
			return err
		}
	}
	return bad
}

func (s *story) port(p *xmlPort, emit func(Row) error) error {
	switch p.State.State {
	case "open", "": // masscan gives banners without a state
	case "closed":
		return s.closed(evidence.Refused, "connection refused", emit)
	default: // filtered, open|filtered
		return s.closed(evidence.Silent, "no answer in time", emit)
	}
	if p.Service.Tunnel == "ssl" {
		s.Host.TLS = &evidence.TLS{}
	}
	for i := range p.Scripts {
		s.script(&p.Scripts[i])
	}
	s.prints(p.Service.Prints)
	s.banner(p.Service.Name, p.Service.Banner)
	s.product(p.Service.Product, p.Service.Version)
	// A name from the table of ports was not asked for either.
	if p.Service.Method == "probed" && !isHTTP(p.Service.Name) {
		s.others = append(s.others, p.Service.Name)
	}
	return s.end(emit)
}

// prints takes the answer to GET / from a service fingerprint, in which nmap
// keeps what it does not know: %r(GetRequest,8F,"HTTP/1\.0\x20200\x20OK…").
func (s *story) prints(fp string) {
	_, rest, ok := strings.Cut(fp, "%r(GetRequest,")
	if !ok {
		return
	}
	_, rest, ok = strings.Cut(rest, `,"`)
	text, _, closed := strings.Cut(rest, `")`)
	if ok && closed {
		s.raw(evidence.Root, unescape(text))
	}
}

// script takes what nmap's scripts tell of an answer, as far as it is the
// answer and not a summary: the header, a server's name, the certificate.
func (s *story) script(sc *xmlScript) {
	switch sc.ID {
	case "ssl-cert":
		t := s.Host.TLS
		if t == nil {
			t = &evidence.TLS{}
			s.Host.TLS = t
		}
		for _, e := range sc.Elems {
			if e.Key == "sha256" {
				t.SHA256 = strings.ToLower(strings.ReplaceAll(strings.TrimSpace(e.Text), " ", ""))
			}
		}
		for _, table := range sc.Tables {
			parts := map[string]word{}
			for _, e := range table.Elems {
				if short, ok := certificateParts[e.Key]; ok {
					parts[short] = word(e.Text)
				}
				switch table.Key + " " + e.Key {
				case "validity notBefore":
					t.NotBefore = timeOf(e.Text)
				case "validity notAfter":
					t.NotAfter = timeOf(e.Text)
				case "subject commonName":
					t.Names = append(t.Names, e.Text)
				}
			}
			switch table.Key {
			case "subject":
				t.Subject = distinguished(parts)
			case "issuer":
				t.Issuer = distinguished(parts)
			}
		}
	case "fingerprint-strings", "http-fetch":
		// Cut and indented for reading; prints has the bytes.
	case "banner":
		s.raw(evidence.Root, unescape(sc.Output))
	}
}

var certificateParts = map[string]string{
	"commonName": "CN", "organizationalUnitName": "OU", "organizationName": "O",
	"localityName": "L", "stateOrProvinceName": "ST", "countryName": "C",
}
