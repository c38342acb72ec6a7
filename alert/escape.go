package alert

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Escape makes text from outside safe to show on one line: what is not visible
// as itself (line breaks, terminal controls, zero-width and direction-changing
// characters, invalid UTF-8) becomes a visible escape like \n, \x1b or \u202e,
// and a backslash becomes two, so that different texts stay different.
func Escape(text string) string { return escape(text, visible) }

// escapeASCII is Escape with everything beyond ASCII escaped too.
func escapeASCII(text string) string {
	return escape(text, func(r rune) bool { return r >= ' ' && r <= '~' })
}

func escape(text string, keep func(rune) bool) string {
	var b strings.Builder
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRuneInString(text[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, text[i])
		case r == '\\':
			b.WriteString(`\\`)
		case keep(r):
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < utf8.RuneSelf:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r < 0x10000:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
		i += size
	}
	return b.String()
}

// visible reports whether a reader sees the character for what it is.
// unicode.IsPrint leaves out controls, direction marks, zero-width characters
// and every space but ASCII's; what it lets through although nothing is shown
// are characters that Unicode calls default-ignorable, variation selectors and
// the blank Braille pattern.
func visible(r rune) bool {
	if r < utf8.RuneSelf { // most of them
		return r >= ' ' && r <= '~'
	}
	return unicode.IsPrint(r) && r != '\u2800' &&
		!unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}

// shorten cuts text to so many characters, and says how many are missing.
func shorten(text string, limit int) string {
	if len(text) <= limit { // bytes are never fewer than characters
		return text
	}
	n := 0
	for i := range text {
		if n == limit {
			return fmt.Sprintf("%s… (%d more characters)", text[:i], utf8.RuneCountInString(text[i:]))
		}
		n++
	}
	return text
}
