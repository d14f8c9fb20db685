package owner

import "time"

const membersSource = "treaties of accession and withdrawal, as of 2026-01-01"

// member is one country's time in the European Union or the European Economic
// Area: from its first day to its last, "" while it lasts.
type member struct{ from, to string }

// eu is the European Union's list of its countries with the dates of their
// accession (european-union.europa.eu, "EU countries"), as of 2026-01-01. The
// territories with an ISO code of their own are those that Articles 349 and 355
// TFEU count in: Åland, and the outermost regions of France. Greenland, French
// Polynesia and the other overseas countries are not part of it.
var eu = map[string]member{
	"BE": {from: "1958-01-01"}, "DE": {from: "1958-01-01"}, "FR": {from: "1958-01-01"},
	"IT": {from: "1958-01-01"}, "LU": {from: "1958-01-01"}, "NL": {from: "1958-01-01"},
	"DK": {from: "1973-01-01"}, "IE": {from: "1973-01-01"},
	"GB": {from: "1973-01-01", to: "2020-01-31"}, // Withdrawal Agreement, OJ L 29, 31.1.2020
	"GR": {from: "1981-01-01"},
	"ES": {from: "1986-01-01"}, "PT": {from: "1986-01-01"},
	"AT": {from: "1995-01-01"}, "FI": {from: "1995-01-01"}, "SE": {from: "1995-01-01"},
	"CY": {from: "2004-05-01"}, "CZ": {from: "2004-05-01"}, "EE": {from: "2004-05-01"},
	"HU": {from: "2004-05-01"}, "LT": {from: "2004-05-01"}, "LV": {from: "2004-05-01"},
	"MT": {from: "2004-05-01"}, "PL": {from: "2004-05-01"}, "SI": {from: "2004-05-01"},
	"SK": {from: "2004-05-01"},
	"BG": {from: "2007-01-01"}, "RO": {from: "2007-01-01"},
	"HR": {from: "2013-07-01"},

	"AX": {from: "1995-01-01"},
	"GF": {from: "1958-01-01"}, "GP": {from: "1958-01-01"}, "MQ": {from: "1958-01-01"},
	"RE": {from: "1958-01-01"}, "MF": {from: "1958-01-01"}, "YT": {from: "2014-01-01"},
}

// efta are the members of the European Economic Area that are not of the Union
// (Agreement on the EEA, OJ L 1, 3.1.1994). Switzerland is no member.
var efta = map[string]member{
	"IS": {from: "1994-01-01"}, "NO": {from: "1994-01-01"}, "LI": {from: "1995-05-01"},
}

// eea is when members of the Union joined the Area later than the Union; the
// enlargements were applied provisionally from these days.
var eea = map[string]string{"BG": "2007-08-01", "RO": "2007-08-01", "HR": "2014-04-12"}

const eeaBegan = "1994-01-01"

// EU reports whether the country was in the European Union on the day.
func EU(country string, day time.Time) bool {
	m, ok := eu[country]
	return ok && m.holds(day.UTC().Format(time.DateOnly))
}

// EEA reports whether the country was in the European Economic Area on the day,
// as a member of the Union or beside it.
func EEA(country string, day time.Time) bool {
	d := day.UTC().Format(time.DateOnly)
	if m, ok := efta[country]; ok {
		return m.holds(d)
	}
	return EU(country, day) && d >= max(eeaBegan, eea[country])
}

func (m member) holds(day string) bool {
	return day >= m.from && (m.to == "" || day <= m.to)
}

func blocs(country string, day time.Time) string {
	switch {
	case EU(country, day) && EEA(country, day):
		return "EU, EEA"
	case EU(country, day):
		return "EU"
	case EEA(country, day):
		return "EEA"
	}
	return ""
}
