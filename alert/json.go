package alert

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"unicode/utf16"
	"unicode/utf8"
)

// byProtocol is JSON for every protocol but those that people read, as SNS takes it.
func (a Alert) byProtocol() ([]byte, error) {
	machine, err := a.JSON()
	if err != nil {
		return nil, err
	}
	return encode(struct {
		Default string `json:"default"`
		Email   string `json:"email"`
		SMS     string `json:"sms"`
	}{string(machine), a.Text(), a.Subject()})
}

// JSON returns the alert as one line of JSON, schema cmkeeper.alert.v1. Values
// are as they came; characters that would not be seen are written as JSON's own
// \u escapes, which also keeps out those that SNS and SQS refuse.
func (a Alert) JSON() ([]byte, error) {
	a.Title = a.headline()
	a.Action.Status = cmp.Or(a.Action.Status, StatusNone)
	a.Next = a.steps()
	if a.Digest != nil {
		d := *a.Digest
		d.Calls = slices.Clone(d.Calls)
		for i, c := range d.Calls {
			d.Calls[i].Do = c.step()
		}
		a.Digest = &d
	}
	raw, err := encode(struct {
		Schema string `json:"schema"`
		Alert
	}{Schema, a})
	if err != nil {
		return nil, err
	}
	return EscapeJSON(raw), nil
}

// EscapeJSON returns the same JSON in which each character of a text that is not visible
// as itself, or that a terminal acts on, is one of JSON's own \u escapes.
func EscapeJSON(raw []byte) []byte {
	out := make([]byte, 0, len(raw))
	for _, r := range string(raw) {
		switch {
		case visible(r), r == '\n', r == '\r', r == '\t': // within a text these are escaped already
			out = utf8.AppendRune(out, r)
		case r < 0x10000:
			out = fmt.Appendf(out, `\u%04x`, r)
		default:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		}
	}
	return out
}

// JSONWriter writes JSON to W as EscapeJSON returns it. Each Write has whole characters,
// as those of encoding/json and log/slog do.
type JSONWriter struct{ W io.Writer }

func (w JSONWriter) Write(p []byte) (int, error) {
	if _, err := w.W.Write(EscapeJSON(p)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// encode returns v as one line of JSON in which <, > and & are themselves.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}
