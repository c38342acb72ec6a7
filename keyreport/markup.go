package keyreport

import (
	"strings"

	"github.com/cmkeeper/cmkeeper/alert"
)

// name is the name of an element or an attribute. Only constants of this package become
// one: what was read is a string, and a string becomes a node only through text or as an
// attribute's value, escaped.
type name string

// node is a piece of the page that writes itself.
type node func(*strings.Builder)

// attribute is an attribute of an element.
type attribute struct {
	name  name
	value string
}

// attr is an attribute with a value.
func attr(n name, value string) attribute { return attribute{n, value} }

// text is text from anywhere: what is not visible is escaped, as in every other place
// where cmkeeper shows it, and then what HTML acts on.
func text(s string) node {
	return func(b *strings.Builder) { escapeTo(b, alert.Escape(s)) }
}

// nodes are pieces one after the other.
func nodes(all ...node) node {
	return func(b *strings.Builder) {
		for _, n := range all {
			if n != nil {
				n(b)
			}
		}
	}
}

// each makes a node of every item.
func each[T any](items []T, make func(T) node) node {
	return func(b *strings.Builder) {
		for _, item := range items {
			make(item)(b)
		}
	}
}

// el is an element with attributes and content. A void element has nil for its content.
// Both HTML and XML read it the same way.
func el(n name, attributes []attribute, content ...node) node {
	return func(b *strings.Builder) {
		b.WriteByte('<')
		b.WriteString(string(n))
		for _, a := range attributes {
			b.WriteByte(' ')
			b.WriteString(string(a.name))
			b.WriteString(`="`)
			escapeTo(b, alert.Escape(a.value))
			b.WriteByte('"')
		}
		if content == nil {
			b.WriteString("/>")
			return
		}
		b.WriteByte('>')
		nodes(content...)(b)
		b.WriteString("</")
		b.WriteString(string(n))
		b.WriteByte('>')
	}
}

// tag is an element without attributes.
func tag(n name, content ...node) node { return el(n, nil, content...) }

// class is an element of a class.
func class(n name, c string, content ...node) node {
	return el(n, []attribute{attr("class", c)}, content...)
}

// words is an element with text only.
func words(n name, s string) node { return tag(n, text(s)) }

// escapeTo writes what HTML would act on, in text or in a quoted value, as references.
func escapeTo(b *strings.Builder, s string) {
	for {
		i := strings.IndexAny(s, `&<>"'`)
		if i < 0 {
			b.WriteString(s)
			return
		}
		b.WriteString(s[:i])
		switch s[i] {
		case '&':
			b.WriteString("&amp;")
		case '<':
			b.WriteString("&lt;")
		case '>':
			b.WriteString("&gt;")
		case '"':
			b.WriteString("&#34;")
		case '\'':
			b.WriteString("&#39;")
		}
		s = s[i+1:]
	}
}
