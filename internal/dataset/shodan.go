package dataset

import (
	"errors"
	"strconv"
	"strings"

	"gatehouse/internal/evidence"
)

// shodan reads banners: those of a download, of a search (matches), or of one
// host (data). https://datapedia.shodan.io names the members.
type shodan struct{}

type shodanBanner struct {
	IP        word              `json:"ip_str"`
	IPv6      word              `json:"ipv6"`
	Port      word              `json:"port"`
	Transport word              `json:"transport"`
	Timestamp word              `json:"timestamp"`
	Data      maybe[string]     `json:"data"`
	Product   word              `json:"product"`
	Version   word              `json:"version"`
	HTTP      maybe[shodanHTTP] `json:"http"`
	SSL       maybe[shodanSSL]  `json:"ssl"`
	Ollama    maybe[tells]      `json:"ollama"`
	Module    maybe[struct {
		Module word `json:"module"`
	}] `json:"_shodan"`

	shodanPlace
}

// shodanPlace is what Shodan says of an address, at its banner or its host.
type shodanPlace struct {
	ASN       word          `json:"asn"`
	Org       word          `json:"org"`
	ISP       word          `json:"isp"`
	Hostnames several[word] `json:"hostnames"`
	Location  maybe[struct {
		Country word `json:"country_code"`
		Region  word `json:"region_code"`
		City    word `json:"city"`
	}] `json:"location"`
}

type shodanHTTP struct {
	Status   word          `json:"status"`
	HTML     maybe[string] `json:"html"`
	Server   word          `json:"server"`
	Location word          `json:"location"`
}

type shodanSSL struct {
	Versions several[word] `json:"versions"`
	Cipher   maybe[struct {
		Version word `json:"version"`
	}] `json:"cipher"`
	Cert maybe[struct {
		Subject     maybe[map[string]word] `json:"subject"`
		Issuer      maybe[map[string]word] `json:"issuer"`
		Issued      word                   `json:"issued"`
		Expires     word                   `json:"expires"`
		Fingerprint maybe[struct {
			SHA256 word `json:"sha256"`
		}] `json:"fingerprint"`
	}] `json:"cert"`
}

func (shodan) parse(record []byte, emit func(Row) error) error {
	var r struct {
		shodanBanner
		Matches *several[shodanBanner] `json:"matches"`
	}
	if err := unmarshal(record, &r); err != nil {
		return err
	}
	list := r.Matches
	if list == nil && !r.Data.ok && r.Port == "" {
		var host struct {
			shodanPlace
			IP   word                   `json:"ip_str"`
			Data *several[shodanBanner] `json:"data"`
		}
		if err := unmarshal(record, &host); err != nil {
			return err
		}
		if list = host.Data; list != nil {
			for i := range *list {
				if b := &(*list)[i]; b.IP == "" {
					b.IP = host.IP
				}
			}
		}
	}
	if list == nil {
		return r.shodanBanner.tell(emit)
	}
	var bad error
	for i := range *list {
		if err := (*list)[i].tell(emit); errors.Is(err, errStop) {
			return err
		} else if err != nil && bad == nil {
			bad = err
		}
	}
	return bad
}

func (b *shodanBanner) tell(emit func(Row) error) error {
	addr, port, err := placeOf(orElse(b.IP, b.IPv6), b.Port)
	if err != nil {
		return err
	}
	if b.Transport == "udp" {
		return nil
	}
	s := story{source: "shodan"}
	s.Host = hostAt(addr, port)
	s.Host.ObservedAt = timeOf(string(b.Timestamp))
	s.Host.TLS = b.tls()
	s.answers(b)
	if b.Ollama.ok {
		s.ollama(&b.Ollama.T)
	}
	s.product(string(b.Product), string(b.Version))

	s.country(string(b.Location.T.Country))
	s.claim("region", string(b.Location.T.Region))
	s.claim("city", string(b.Location.T.City))
	s.claim("asn", number(b.ASN))
	s.claim("network", string(b.ISP))
	s.claim("name", string(b.Org))
	for _, name := range b.Hostnames {
		s.claim("hostname", string(name))
	}
	return s.end(emit)
}

// answers takes what the host answered from data, which has the header and
// sometimes the body, and from http, which has the body of http.location.
func (s *story) answers(b *shodanBanner) {
	ask, known := askOf(string(b.HTTP.T.Location))
	heard := known && s.raw(ask, []byte(b.Data.T))
	if b.HTTP.ok && known && !heard {
		if n, err := strconv.Atoi(string(b.HTTP.T.Status)); err == nil {
			x := evidence.Exchange{Ask: ask, Status: n}
			if b.HTTP.T.Server != "" {
				x.Header = []evidence.Field{{Name: "Server", Value: string(b.HTTP.T.Server)}}
			}
			s.exchange(x)
		}
	}
	if x := s.Host.Find(ask); known && x != nil && b.HTTP.T.HTML.T != "" {
		x.Body = []byte(b.HTTP.T.HTML.T)
	}
	if module := string(b.Module.T.Module); !isHTTP(module) {
		s.others = append(s.others, module)
	}
}

func (b *shodanBanner) tls() *evidence.TLS {
	if !b.SSL.ok {
		return nil
	}
	cert := &b.SSL.T.Cert.T
	t := &evidence.TLS{
		Version:   tlsName(string(b.SSL.T.Cipher.T.Version)),
		Subject:   distinguished(cert.Subject.T),
		Issuer:    distinguished(cert.Issuer.T),
		NotBefore: timeOf(string(cert.Issued)),
		NotAfter:  timeOf(string(cert.Expires)),
		SHA256:    strings.ToLower(string(cert.Fingerprint.T.SHA256)),
	}
	for _, v := range b.SSL.T.Versions {
		// -TLSv1 is one that the host refused.
		if t.Version == "" && !strings.HasPrefix(string(v), "-") {
			t.Version = tlsName(string(v))
		}
	}
	if cn := cert.Subject.T["CN"]; cn != "" {
		t.Names = []string{string(cn)}
	}
	return t
}

// distinguished writes a name as certificates are quoted, the common name first.
func distinguished(parts map[string]word) string {
	var list []string
	for _, kind := range []string{"CN", "OU", "O", "L", "ST", "C"} {
		if v := parts[kind]; v != "" {
			list = append(list, kind+"="+string(v))
		}
	}
	return strings.Join(list, ",")
}

// tlsName is a version as crypto/tls names it.
func tlsName(s string) string {
	digits := strings.Trim(strings.ToLower(s), "tlsv_ ")
	switch strings.ReplaceAll(digits, "_", ".") {
	case "1", "1.0":
		return "TLS 1.0"
	case "1.1":
		return "TLS 1.1"
	case "1.2":
		return "TLS 1.2"
	case "1.3":
		return "TLS 1.3"
	}
	return s
}
