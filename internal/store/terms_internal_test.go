package store

import (
	"reflect"
	"testing"
)

// FuzzTerms reads any terms: what can be read is written so that it reads the
// same.
func FuzzTerms(f *testing.F) {
	f.Add(`{"version":1}`)
	f.Add(`{"version":1,"powers":["hello","infer"],"models":["*"],"sources":["192.0.2.0/24","::/0"],"strict":true}`)
	f.Add(`{"version":1,"hours":[{"days":[1,0],"from_ns":3600000000000,"to_ns":1,"zone":"Europe/Berlin"},{}],"images":-1}`)
	f.Add(`{"version":1,"per_minute":9223372036854775807,"tokens_day":-1}`)
	f.Add(`{"version":1,"sources":[null,"fe80::1%eth0/64"]}`)
	f.Fuzz(func(t *testing.T, text string) {
		terms, err := decodeTerms(text)
		if err != nil {
			return
		}
		again, err := encodeTerms(&terms)
		if err != nil {
			t.Fatalf("%q is read and cannot be written: %v", text, err)
		}
		back, err := decodeTerms(again)
		if err != nil {
			t.Fatalf("%q is written as %q: %v", text, again, err)
		}
		if !reflect.DeepEqual(norm(back), norm(terms)) {
			t.Fatalf("%q is written as %q", text, again)
		}
	})
}

// norm is v with empty lists as none: to terms they are the same.
func norm(v any) any {
	copied := reflect.New(reflect.TypeOf(v)).Elem()
	copied.Set(reflect.ValueOf(v))
	var walk func(reflect.Value)
	walk = func(v reflect.Value) {
		switch v.Kind() {
		case reflect.Slice:
			if v.Len() == 0 {
				v.SetZero()
				return
			}
			for i := range v.Len() {
				walk(v.Index(i))
			}
		case reflect.Struct:
			for i := range v.NumField() {
				if v.Field(i).CanSet() {
					walk(v.Field(i))
				}
			}
		}
	}
	walk(copied)
	return copied.Interface()
}

// FuzzSecrets does so with secrets.
func FuzzSecrets(f *testing.F) {
	f.Add(`[]`)
	f.Add(`[{"sha256":"0000000000000000000000000000000000000000000000000000000000000000","until":1}]`)
	f.Fuzz(func(t *testing.T, text string) {
		secrets, err := decodeSecrets(text)
		if err != nil {
			return
		}
		again, err := encodeSecrets(secrets)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := decodeSecrets(again); err != nil || !reflect.DeepEqual(back, secrets) {
			t.Fatalf("%q is written as %q: %v", text, again, err)
		}
	})
}
