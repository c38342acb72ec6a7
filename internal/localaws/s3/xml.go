package s3

import (
	"bytes"
	"encoding/xml"
	"net/http"
	"strconv"
	"unicode/utf8"

	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

const namespace = "http://s3.amazonaws.com/doc/2006-03-01/"

// document is an XML answer under construction.
type document struct{ bytes.Buffer }

// newDocument begins a document with its root element, in S3's namespace.
func newDocument(root string) *document {
	d := &document{}
	d.WriteString(xml.Header + "<" + root + ` xmlns="` + namespace + `">`)
	return d
}

func (d *document) begin(name string) {
	if d.Len() == 0 {
		d.WriteString(xml.Header)
	}
	d.WriteByte('<')
	d.WriteString(name)
	d.WriteByte('>')
}

func (d *document) end(name string) {
	d.WriteString("</")
	d.WriteString(name)
	d.WriteByte('>')
}

func (d *document) element(name, value string) {
	d.begin(name)
	d.text(value)
	d.end(name)
}

// optional writes the element unless the value is empty.
func (d *document) optional(name, value string) {
	if value != "" {
		d.element(name, value)
	}
}

func (d *document) number(name string, value int64) {
	d.element(name, strconv.FormatInt(value, 10))
}

func (d *document) boolean(name string, value bool) {
	d.element(name, strconv.FormatBool(value))
}

// text escapes as S3 does: a control character that XML 1.0 can not carry
// becomes a character reference nevertheless, so that a client that did not ask
// for encoding-type=url fails instead of seeing another key.
func (d *document) text(s string) {
	from := 0
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		escape := ""
		switch {
		case r == '&':
			escape = "&amp;"
		case r == '<':
			escape = "&lt;"
		case r == '>':
			escape = "&gt;"
		case r == '"':
			escape = "&quot;"
		case r < 0x20:
			escape = "&#x" + strconv.FormatInt(int64(r), 16) + ";"
		}
		if escape != "" {
			d.WriteString(s[from:i])
			d.WriteString(escape)
			from = i + size
		}
		i += size
	}
	d.WriteString(s[from:])
}

// maxDocument is larger than any XML request that S3 accepts.
const maxDocument = 2 << 20

// decode reads the request's XML body into v, having checked the body's
// integrity headers. An empty body leaves v as it is.
func (c *call) decode(v any) error {
	body, _, err := c.payload(maxDocument)
	if err != nil {
		return err
	}
	return unmarshal(body, v)
}

// unmarshal reads an XML document into v; an empty one leaves v as it is.
func unmarshal(body []byte, v any) error {
	if len(body) == 0 {
		return nil
	}
	if xml.Unmarshal(body, v) != nil {
		return malformedXML()
	}
	return nil
}

func malformedXML() error {
	return wire.Errorf(http.StatusBadRequest, "MalformedXML", "The XML you provided was not well-formed or did not validate against our published schema")
}
