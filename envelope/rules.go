package envelope

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// Rules say which encryption contexts are allowed. The zero value allows all that KMS and
// the format do: at least one attribute, none without a name or a value, UTF-8, and
// encoded at most 8 KiB.
type Rules struct {
	// Required are the attributes that each context has to have.
	Required []string `json:"required,omitempty"`
	// Values are, by attribute, the values that it may have where a context has it. An
	// attribute that is not here may have any.
	Values map[string][]string `json:"values,omitempty"`
}

// ParseRules reads rules as JSON:
//
//	{"required": ["tenant", "purpose"], "values": {"purpose": ["invoices", "backups"]}}
//
// Members that are unknown or there twice, and what follows the object, are errors, and so
// are rules that nothing could keep.
func ParseRules(data []byte) (Rules, error) {
	var r Rules
	d := json.NewDecoder(bytes.NewReader(data))
	err := object(d, func(name string) error {
		switch name {
		case "required":
			return d.Decode(&r.Required)
		case "values":
			r.Values = map[string][]string{}
			return object(d, func(attribute string) error {
				var values []string
				err := d.Decode(&values)
				r.Values[attribute] = values
				return err
			})
		}
		return fmt.Errorf("unknown member %q: there are required and values", clip(name))
	})
	if err == nil {
		if _, after := d.Token(); !errors.Is(after, io.EOF) {
			err = errors.New("something follows the object: give one JSON object")
		}
	}
	if err = cmp.Or(err, r.valid()); err != nil {
		return Rules{}, fmt.Errorf("parse rules: %w", err)
	}
	return r, nil
}

// object reads an object, each member's value by member. Unlike with json.Unmarshal, no
// member may be there twice, where one would hide the other, and case counts.
func object(d *json.Decoder, member func(name string) error) error {
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return cmp.Or(err, fmt.Errorf("%v is no object: give one like {\"required\": [\"tenant\"]}", t))
	}
	seen := map[string]bool{}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return err
		}
		name := fmt.Sprint(t) // a string, says encoding/json
		if seen[name] {
			return fmt.Errorf("%q is there twice", clip(name))
		}
		seen[name] = true
		if err := member(name); err != nil {
			return err
		}
	}
	_, err := d.Token()
	return err
}

// valid returns an error for rules that no context could keep.
func (r Rules) valid() error {
	if slices.Contains(r.Required, "") {
		return errors.New("the rules require an attribute without a name: name it or leave it out")
	}
	for _, name := range slices.Sorted(maps.Keys(r.Values)) {
		if values := r.Values[name]; name == "" || len(values) == 0 || slices.Contains(values, "") {
			return fmt.Errorf("the rules have values for the attribute %q that no context can have: name it and give at least one value, none of them empty", name)
		}
	}
	return nil
}

func (r Rules) clone() Rules {
	c := Rules{Required: slices.Clone(r.Required), Values: make(map[string][]string, len(r.Values))}
	for name, values := range r.Values {
		c.Values[name] = slices.Clone(values)
	}
	return c
}

// Check returns an ErrContext that names all that is wrong with the encryption context,
// but none of its values; nil where nothing is.
func (r Rules) Check(encryptionContext map[string]string) error {
	var wrong []string
	if len(encryptionContext) == 0 {
		wrong = append(wrong, "it is empty: say what the data are, such as whose")
	}
	size := 2
	for _, name := range slices.Sorted(maps.Keys(encryptionContext)) {
		value := encryptionContext[name]
		size += 4 + len(name) + len(value)
		switch allowed, bound := r.Values[name]; {
		// KMS's API reference does not say whether either may be empty. Without them
		// nothing depends on it.
		case name == "":
			wrong = append(wrong, "an attribute has no name")
		case value == "":
			wrong = append(wrong, fmt.Sprintf("the attribute %q is empty", clip(name)))
		case !utf8.ValidString(name) || !utf8.ValidString(value):
			wrong = append(wrong, fmt.Sprintf("the attribute %q is not UTF-8", clip(name)))
		case bound && !slices.Contains(allowed, value):
			wrong = append(wrong, fmt.Sprintf("the attribute %q has a value that the rules do not allow", clip(name)))
		}
	}
	if size > maxContextSize {
		wrong = append(wrong, fmt.Sprintf("it takes %d bytes, and %d is the most: shorten it", size, maxContextSize))
	}
	for _, name := range r.Required {
		if _, ok := encryptionContext[name]; !ok {
			wrong = append(wrong, fmt.Sprintf("the attribute %q, which the rules require, is missing", name))
		}
	}
	if wrong != nil {
		return fmt.Errorf("%w: %s", ErrContext, strings.Join(wrong, "; "))
	}
	return nil
}

// difference names the attributes in which two contexts differ, but not their values.
func difference(given, message map[string]string) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(message)) {
		if value, ok := given[name]; !ok {
			all = append(all, fmt.Sprintf("%q is missing", clip(name)))
		} else if value != message[name] {
			all = append(all, fmt.Sprintf("%q differs", clip(name)))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if _, ok := message[name]; !ok {
			all = append(all, fmt.Sprintf("%q is not in the message's", clip(name)))
		}
	}
	return strings.Join(all, ", ")
}

// clip shortens an attribute's name for an error.
func clip(name string) string {
	if len(name) > 100 {
		return name[:100] + "…"
	}
	return name
}
