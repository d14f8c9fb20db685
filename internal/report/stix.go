package report

import (
	"bufio"
	"cmp"
	"crypto/sha1" // as UUIDs of version 5 are made (RFC 9562, section 5.5); it guards nothing
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"gatehouse/internal/finding"
	"gatehouse/internal/wave"
)

// STIX 2.1, as far as we use it. Section numbers are those of the standard:
// https://docs.oasis-open.org/cti/stix/v2.1/os/stix-v2.1-os.html
const (
	// The namespace of observables, the same for everybody (2.9), so that two
	// reports that name an address name it by one id.
	stixObservables = "00abedb4-aa42-466c-9c01-fed23315a9b7"
	// Ours, for all other objects: another namespace is what 2.9 asks for.
	stixOurs = "6f3d5a1c-8e0b-5c47-9d21-47a3e0c1b85e"
)

// stixBirth is when the objects came to be that never change: who we are, and
// the vulnerabilities.
var stixBirth = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

type (
	// stixCommon begins every object (3.2).
	stixCommon struct {
		Type string `json:"type"`
		Spec string `json:"spec_version"`
		ID   string `json:"id"`
	}
	stixDomain struct { // of a domain or a relationship object
		stixCommon
		By       string `json:"created_by_ref,omitzero"`
		Created  string `json:"created"`
		Modified string `json:"modified"`
	}
	stixIdentity struct { // 4.5
		stixDomain
		Name  string `json:"name"`
		Class string `json:"identity_class"`
	}
	stixAddress struct { // 6.9, 6.10
		stixCommon
		Value  string   `json:"value"`
		Belong []string `json:"belongs_to_refs,omitzero"`
	}
	stixNetwork struct { // 6.3, autonomous-system
		stixCommon
		Number uint32 `json:"number"`
		Name   string `json:"name,omitzero"`
	}
	stixTraffic struct { // 6.12
		stixCommon
		To        string   `json:"dst_ref"`
		Port      uint16   `json:"dst_port"`
		Protocols []string `json:"protocols"`
	}
	stixSoftware struct { // 6.14
		stixCommon
		Name    string `json:"name"`
		Version string `json:"version,omitzero"`
	}
	stixObserved struct { // 4.14
		stixDomain
		First  string   `json:"first_observed"`
		Last   string   `json:"last_observed"`
		Number int      `json:"number_observed"`
		Refs   []string `json:"object_refs"`
	}
	stixInfrastructure struct { // 4.8
		stixDomain
		Name        string   `json:"name"`
		Description string   `json:"description,omitzero"`
		Kinds       []string `json:"infrastructure_types"`
		First       string   `json:"first_seen"`
		Last        string   `json:"last_seen"`
	}
	stixVulnerability struct { // 4.18
		stixDomain
		Name        string         `json:"name"`
		Description string         `json:"description,omitzero"`
		External    []stixExternal `json:"external_references"`
	}
	stixExternal struct { // 2.5
		Source string `json:"source_name"`
		ID     string `json:"external_id,omitzero"`
		Text   string `json:"description,omitzero"`
	}
	stixRelationship struct { // 5.1
		stixDomain
		Kind string `json:"relationship_type"`
		From string `json:"source_ref"`
		To   string `json:"target_ref"`
	}
)

// stixWriter writes the objects of a bundle, each once.
type stixWriter struct {
	w         *bufio.Writer
	written   map[[16]byte]bool
	separator string
	us        string
}

// STIX writes a bundle of STIX 2.1: for each host with a finding an observation
// of its address, port and software, and an infrastructure that has the
// vulnerabilities found. Ids are made of what they name, so that the same report
// is the same bundle, and observables have the ids that everybody's have.
func STIX(w io.Writer, d Data) error {
	s := &stixWriter{w: bufio.NewWriter(w), written: map[[16]byte]bool{}, separator: "\n"}
	s.us = stixID("identity", stixOurs, "gatehouse")
	bundle := stixID("bundle", stixOurs, d.Summary.Wave+"\x00"+d.Summary.Scope+"\x00"+strconv.FormatBool(d.anonymous))
	fmt.Fprintf(s.w, "{\"type\":\"bundle\",\"id\":%q,\"objects\":[", bundle)
	us := stixIdentity{s.domain("identity", "gatehouse", stixBirth), "Gatehouse", "system"}
	us.By = ""
	if err := s.write(us.ID, us); err != nil {
		return err
	}
	for r, err := range d.hosts() {
		if err != nil {
			return fmt.Errorf("read records: %w", err)
		}
		if len(r.Findings) == 0 {
			continue
		}
		if err := s.host(&r); err != nil {
			return err
		}
	}
	s.w.WriteString("\n]}\n")
	return s.w.Flush()
}

// write writes an object unless it was written before.
func (s *stixWriter) write(id string, object any) error {
	sum := sha1.Sum([]byte(id))
	if key := [16]byte(sum[:16]); s.written[key] {
		return nil
	} else {
		s.written[key] = true
	}
	line, err := encode(object)
	if err != nil {
		return err
	}
	s.w.WriteString(s.separator) // bufio keeps the first error for the next write
	s.separator = ",\n"
	_, err = s.w.Write(line)
	return err
}

func (s *stixWriter) host(r *wave.Record) error {
	value, hash, anonymous := pseudonym(r.Address)
	kind, layer := "ipv4-addr", "ipv4"
	if addr, err := netip.ParseAddr(value); err == nil {
		addr = addr.Unmap().WithZone("")
		if value = addr.String(); addr.Is6() {
			kind, layer = "ipv6-addr", "ipv6"
		}
	} else if network, err := netip.ParsePrefix(value); err != nil {
		return nil // an observation is of an address
	} else if network.Addr().Is6() {
		kind, layer = "ipv6-addr", "ipv6"
	}
	at := r.ObservedAt
	if at.IsZero() || at.Year() < 1 || at.Year() > 9999 {
		at = stixBirth
	}

	address := stixAddress{Value: value}
	address.stixCommon = observable(kind, map[string]any{"value": address.Value})
	refs := []string{address.ID}
	if r.Owner.ASN != 0 {
		as := stixNetwork{Number: r.Owner.ASN, Name: short(r.Owner.Network, 200)}
		as.stixCommon = observable("autonomous-system", map[string]any{"number": as.Number})
		if err := s.write(as.ID, as); err != nil {
			return err
		}
		address.Belong = []string{as.ID}
	}
	if err := s.write(address.ID, address); err != nil {
		return err
	}

	traffic := stixTraffic{To: address.ID, Port: r.Port, Protocols: []string{layer, "tcp", "http"}}
	if r.TLS != nil {
		traffic.Protocols = []string{layer, "tcp", "tls", "http"}
	}
	traffic.stixCommon = observable("network-traffic", map[string]any{"dst_ref": traffic.To, "dst_port": traffic.Port, "protocols": traffic.Protocols})
	if err := s.write(traffic.ID, traffic); err != nil {
		return err
	}
	refs = append(refs, traffic.ID)

	if r.Identity.Product != "" {
		software := stixSoftware{Name: short(r.Identity.Product, 100), Version: short(r.Identity.Version, 100)}
		of := map[string]any{"name": software.Name}
		if software.Version != "" {
			of["version"] = software.Version
		}
		software.stixCommon = observable("software", of)
		if err := s.write(software.ID, software); err != nil {
			return err
		}
		refs = append(refs, software.ID)
	}

	// A door of one wave: another wave sees it anew, and says so by another id,
	// for what an id was created at must never change.
	door := strings.Join([]string{r.Wave, r.Address, strconv.Itoa(int(r.Port)), r.Name, r.Path}, "\x00")
	seen := stixObserved{s.domain("observed-data", door, at), stixTime(at), stixTime(at), 1, refs}
	if err := s.write(seen.ID, seen); err != nil {
		return err
	}
	name := hostPort(r) + r.Path
	if anonymous {
		name = hash + ":" + strconv.Itoa(int(r.Port))
	}
	server := stixInfrastructure{
		s.domain("infrastructure", door, at), "Server at " + short(name, 200), short(r.Reason, 400), []string{"unknown"}, stixTime(at), stixTime(at),
	}
	if err := s.write(server.ID, server); err != nil {
		return err
	}
	if err := s.relate(server.ID, "consists-of", seen.ID, door, at); err != nil {
		return err
	}
	for _, f := range r.Findings {
		for _, v := range s.vulnerabilities(f) {
			if err := s.write(v.ID, v); err != nil {
				return err
			}
			if err := s.relate(server.ID, "has", v.ID, door, at); err != nil {
				return err
			}
		}
	}
	return nil
}

// vulnerabilities are the finding itself and every CVE that it names.
func (s *stixWriter) vulnerabilities(f finding.Finding) []stixVulnerability {
	id, title := short(cmp.Or(f.ID, "finding"), 100), short(f.Title, 300)
	rated := short(fmt.Sprintf("%s %.1f %s", f.Severity, base(f.Score), f.Vector), 200)
	all := []stixVulnerability{{
		s.domain("vulnerability", strings.Join([]string{id, title, rated}, "\x00"), stixBirth), cmp.Or(title, id), rated,
		[]stixExternal{{Source: "gatehouse", ID: id}},
	}}
	for _, cve := range f.CVEs {
		cve = short(cve, 50)
		source := stixExternal{Source: "gatehouse", ID: cve}
		if strings.HasPrefix(cve, "CVE-") {
			source.Source = "cve"
		}
		all = append(all, stixVulnerability{s.domain("vulnerability", cve, stixBirth), cve, "", []stixExternal{source}})
	}
	return all
}

func (s *stixWriter) relate(from, kind, to, door string, at time.Time) error {
	r := stixRelationship{s.domain("relationship", strings.Join([]string{from, kind, to, door}, "\x00"), at), kind, from, to}
	return s.write(r.ID, r)
}

func (s *stixWriter) domain(kind, name string, at time.Time) stixDomain {
	return stixDomain{stixCommon{kind, "2.1", stixID(kind, stixOurs, name)}, s.us, stixTime(at), stixTime(at)}
}

// observable is the beginning of an observable whose id is made of properties:
// the UUID of their canonical JSON (RFC 8785), which for texts without control
// characters, whole numbers and sorted keys is what encoding/json writes.
func observable(kind string, properties map[string]any) stixCommon {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(properties) // of texts and numbers: never an error
	return stixCommon{kind, "2.1", kind + "--" + uuid5(stixObservables, strings.TrimSuffix(b.String(), "\n"))}
}

// stixID is an id of ours. The kind is part of the name: no two objects may
// share a UUID (2.9).
func stixID(kind, space, name string) string {
	return kind + "--" + uuid5(space, kind+"\x00"+name)
}

// uuid5 is the UUID of a name in a space (RFC 9562, section 5.5).
func uuid5(space, name string) string {
	raw, _ := hex.DecodeString(strings.ReplaceAll(space, "-", "")) // of a constant
	sum := sha1.Sum(append(raw, name...))
	sum[6] = sum[6]&0x0f | 0x50
	sum[8] = sum[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", sum[0:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
}

// stixTime is a timestamp (2.16): RFC 3339 in UTC, with milliseconds.
func stixTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }
