package clientside

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
)

// Where a SOPS file stores how it is encrypted (stores/metadata.go of getsops/sops).
const sopsMember = "sops"

// ofSOPS recognises SOPS files. SOPS tells their form by their name; the content is as
// good for it, since each form has the metadata in another way.
func ofSOPS(head []byte, size int64) Found {
	f := Found{Format: SOPS}
	if size > int64(len(head)) {
		if !bytes.Contains(head, []byte("ENC[AES256_GCM,data:")) {
			return Found{}
		}
		return f
	}
	if !bytes.Contains(head, []byte("lastmodified")) {
		return Found{}
	}
	var all []field
	var err error
	begins := func(prefix string) bool { return beginsLine(head, prefix) }
	switch text := bytes.TrimLeft(head, "\ufeff \t\r\n"); {
	case bytes.HasPrefix(text, []byte("{")):
		all, err = scanJSON(head, sopsMember)
		if errors.Is(err, errNotJSON) {
			return Found{} // by far most that begin like that are no SOPS files
		}
		for i := range all {
			all[i].path = all[i].path[1:]
		}
	case begins("[" + sopsMember + "]"):
		all, err = scanINI(head)
	case begins(sopsMember + "_lastmodified="):
		all, err = scanDotenv(head)
	case begins(sopsMember+":") || begins(`"`+sopsMember+`":`) || begins(`'`+sopsMember+`':`):
		all, err = scanYAML(head)
	default:
		return Found{}
	}
	if err == nil {
		err = f.sops(all)
	}
	if err != nil {
		f.Keys, f.slots = nil, nil
		f.Refusal = "it looks like a SOPS file, but " + err.Error()
	} else if !f.Sure {
		return Found{}
	}
	return f
}

// beginsLine reports whether a line begins with prefix.
func beginsLine(body []byte, prefix string) bool {
	return bytes.HasPrefix(body, []byte(prefix)) || bytes.Contains(body, []byte("\n"+prefix))
}

// sopsKey is what is read of an entry of a list "kms".
type sopsKey struct {
	doc                  int
	context              map[string]string
	wrapped, label       field
	hasWrapped, hasLabel bool
}

// sops takes the keys from the values of the metadata. Other key services than KMS stay as
// they are, and so does all else: the MAC covers the data and lastmodified, not the keys.
func (f *Found) sops(all []field) error {
	entries := map[string]*sopsKey{}
	var order []*sopsKey
	version, modified := false, false
	for _, v := range all {
		if v.doc == 0 && len(v.path) == 1 {
			version = version || v.path[0] == "version"
			modified = modified || v.path[0] == "lastmodified"
		}
		at := v.path
		if len(at) > 2 && at[0] == "key_groups" {
			at = at[2:]
		}
		if len(at) < 3 || at[0] != "kms" || !strings.HasPrefix(at[1], "[") {
			continue
		}
		id := fmt.Sprint(v.doc, v.path[:len(v.path)-len(at)+2])
		e := entries[id]
		if e == nil {
			if len(order) == maxKeys {
				return fmt.Errorf("it has more than %d keys", maxKeys)
			}
			e = &sopsKey{doc: v.doc, context: map[string]string{}}
			entries[id] = e
			order = append(order, e)
		}
		var err error
		switch name := at[2]; {
		case name == "enc" && len(at) == 3:
			e.wrapped, e.hasWrapped, err = v, true, v.usable()
		case name == "arn" && len(at) == 3:
			e.label, e.hasLabel, err = v, true, v.usable()
		case name == "context" && len(at) == 4:
			e.context[at[3]], err = v.text, v.usable()
		case name == "context" && v.bad != isNull:
			err = fmt.Errorf("its %.80s is no list of names and values", strings.Join(v.path, "."))
		}
		if err != nil {
			return err
		}
	}
	f.Sure = version && modified
	for _, e := range order {
		if !e.hasWrapped || !e.hasLabel {
			return fmt.Errorf("one of its kms entries has no enc or no arn")
		}
		wrapped, err := decode(e.wrapped.text)
		if err != nil {
			return fmt.Errorf("in %.80s, %w", strings.Join(e.wrapped.path, "."), err)
		}
		f.Keys = append(f.Keys, Key{Wrapped: wrapped, Context: e.context, Label: e.label.text})
		f.slots = append(f.slots, func(k Key) ([]edit, error) {
			edits := []edit{e.wrapped.replace(encode(k.Wrapped))}
			if k.Label != e.label.text {
				edits = append(edits, e.label.replace(k.Label))
			}
			return edits, nil
		})
	}
	return nil
}

// usable says why a value cannot be taken.
func (v field) usable() error {
	if v.bad == "" {
		return nil
	}
	return fmt.Errorf("its %.80s %s", strings.Join(v.path, "."), v.bad)
}
