package events

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// A scanner reads one JSON document (RFC 8259) from front to back. It accepts
// exactly what encoding/json accepts and gives the same strings, but for those that are too
// long (maxText, maxList), several times as fast, because it knows what is wanted and passes
// over the rest without making a value of it.
//
// Every method starts at the first byte of a value. One that reads a type takes
// the value if it is of that type; else it returns zero and leaves the value
// where it is, and the loop around it skips what was left. So a read is one
// line, and a member of an unexpected type does no harm.
//
// Malformed text stops the scanner for good: see fail. The values read before
// are worth nothing until end has said that the whole document is well formed.
type scanner struct {
	text  string
	start int // of the document's value
	pos   int
	depth int
	err   error
}

// What AWS writes into a record is shorter as a rule: a key policy has 32 KiB at most, a list
// of tags 50 elements. What is longer would take up memory for a message many times over,
// and is left out: nobody can keep a genuine event from being handled by making it long.
const (
	maxText = 64 << 10
	maxList = 1000
)

// maxDepth bounds recursion. It is encoding/json's own limit.
const maxDepth = 10_000

// scan starts a document. The strings that it gives share text's memory.
func scan(text string) *scanner {
	s := scanner{text: text}
	s.peek()
	s.start = s.pos
	return &s
}

// end reports whether the document is well formed and nothing follows it.
func (s *scanner) end() error {
	if s.pos == s.start {
		s.skip()
	}
	if s.peek(); s.pos < len(s.text) {
		s.fail()
	}
	return s.err
}

// members iterates over the members of an object: over none if the value is
// something else. The loop reads the member's value or leaves it, and must run
// to its end. A name counts as it is written: encoding/json would let "EVENTNAME"
// pass for "eventName", but AWS writes names in one way only, and of two
// spellings a reader of the record would believe the right one.
func (s *scanner) members(yield func(name string) bool) {
	for more := s.open('{', '}'); more; more = s.next('}') {
		name := s.name()
		at := s.pos
		if !yield(name) {
			return
		}
		if s.pos == at {
			s.skip()
		}
	}
}

// elements is members for an array.
func (s *scanner) elements(yield func() bool) {
	for more := s.open('[', ']'); more; more = s.next(']') {
		s.peek()
		at := s.pos
		if !yield() {
			return
		}
		if s.pos == at {
			s.skip()
		}
	}
}

// list is elements for values that are kept; what is more than maxList is passed over.
func (s *scanner) list(yield func() bool) {
	n := 0
	for range s.elements {
		if n++; n <= maxList && !yield() {
			return
		}
	}
}

// string reads a string.
func (s *scanner) string() string { return s.within(maxText) }

// within reads a string of at most so many bytes, as it is written; "" for a longer one.
func (s *scanner) within(most int) string {
	if s.peek() != '"' {
		return ""
	}
	raw, plain := s.quoted()
	switch {
	case len(raw) > most:
		return ""
	case plain:
		return raw
	}
	return unquote(raw)
}

// strings reads an array of strings; an element of another type is "".
func (s *scanner) strings() (list []string) {
	for range s.list {
		list = append(list, s.string())
	}
	return list
}

// member reads one string member of an object.
func (s *scanner) member(name string) (value string) {
	for n := range s.members {
		if n == name {
			value = s.string()
		}
	}
	return value
}

// int reads a number written without fraction and exponent, as encoding/json
// wants it for an int; one that does not fit is 0.
func (s *scanner) int() int {
	if c := s.peek(); c != '-' && !isDigit(c) {
		return 0
	}
	n, err := strconv.Atoi(s.number())
	if err != nil {
		return 0
	}
	return n
}

// bool reads true; false is what is left, like every other value.
func (s *scanner) bool() bool {
	if s.peek() != 't' {
		return false
	}
	s.literal("true")
	return true
}

// skip passes over a value of any type.
func (s *scanner) skip() {
	switch s.peek() {
	case '{':
		for range s.members { // skips each
		}
	case '[':
		for range s.elements { // skips each
		}
	case '"':
		s.quoted()
	case 't':
		s.literal("true")
	case 'f':
		s.literal("false")
	case 'n':
		s.literal("null")
	default:
		s.number()
	}
}

// open enters an object or array and reports whether it holds anything.
func (s *scanner) open(opening, closing byte) bool {
	if s.peek() != opening {
		return false
	}
	if s.depth++; s.depth > maxDepth {
		s.stop(errors.New("nested too deeply"))
		return false
	}
	s.pos++
	if s.peek() == closing {
		s.pos++
		s.depth--
		return false
	}
	return true
}

// next passes over what follows a member or element, and reports whether that
// announces another one.
func (s *scanner) next(closing byte) bool {
	switch s.peek() {
	case ',':
		s.pos++
		return true
	case closing:
		s.pos++
		s.depth--
		return false
	}
	s.fail()
	return false
}

// name reads a member's name and goes to its value.
func (s *scanner) name() string {
	if s.peek() != '"' {
		s.fail()
		return ""
	}
	name := s.string()
	if s.peek() != ':' {
		s.fail()
		return ""
	}
	s.pos++
	s.peek()
	return name
}

// quoted passes over a string and returns what is between the quotes. It is
// plain if that needs no unquote.
func (s *scanner) quoted() (raw string, plain bool) {
	s.pos++
	first := s.pos
	plain = true
	for {
		// The hot loop of the whole package: on a local variable.
		i := s.pos
		for i < len(s.text) && isOrdinary[s.text[i]] {
			i++
		}
		s.pos = i
		switch c := s.current(); {
		case c == '"':
			s.pos++
			return s.text[first:i], plain
		case c == '\\':
			plain = false
			s.escape()
		case c >= utf8.RuneSelf:
			plain = false
			s.pos++
		default: // a control character, or the end
			s.fail()
			return "", true
		}
	}
}

// escape passes over an escape sequence in a string.
func (s *scanner) escape() {
	s.pos++
	switch s.current() {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		s.pos++
	case 'u':
		s.pos++
		for range 4 {
			if !isHex(s.current()) {
				s.fail()
				return
			}
			s.pos++
		}
	default:
		s.fail()
	}
}

// number passes over a number and returns it.
func (s *scanner) number() string {
	first := s.pos
	if s.current() == '-' {
		s.pos++
	}
	if s.current() == '0' {
		s.pos++
	} else {
		s.digits()
	}
	if s.current() == '.' {
		s.pos++
		s.digits()
	}
	if c := s.current(); c == 'e' || c == 'E' {
		s.pos++
		if c := s.current(); c == '+' || c == '-' {
			s.pos++
		}
		s.digits()
	}
	return s.text[first:s.pos]
}

// digits passes over one digit or more.
func (s *scanner) digits() {
	if !isDigit(s.current()) {
		s.fail()
		return
	}
	for isDigit(s.current()) {
		s.pos++
	}
}

// literal passes over the word that must be here.
func (s *scanner) literal(word string) {
	for i := range len(word) {
		if s.current() != word[i] {
			s.fail()
			return
		}
		s.pos++
	}
}

// peek passes over white space and returns the byte behind it, which is not
// consumed; 0, which is nowhere valid, at the end.
func (s *scanner) peek() byte {
	for ; s.pos < len(s.text); s.pos++ {
		switch c := s.text[s.pos]; c {
		case ' ', '\n', '\t', '\r':
		default:
			return c
		}
	}
	return 0
}

// current is peek inside of a token, where no white space may be.
func (s *scanner) current() byte {
	if s.pos < len(s.text) {
		return s.text[s.pos]
	}
	return 0
}

// fail stops the scanner at a byte that must not be where it is.
func (s *scanner) fail() {
	if s.pos >= len(s.text) {
		s.stop(errors.New("unexpected end of JSON text"))
		return
	}
	s.stop(fmt.Errorf("invalid character %q at offset %d", rune(s.text[s.pos]), s.pos))
}

// stop keeps the first error and goes to the end of the text, where no method
// finds anything more and every loop ends.
func (s *scanner) stop(err error) {
	if s.err == nil {
		s.err = err
	}
	s.pos = len(s.text)
}

// isOrdinary has the bytes that are themselves in a string and end nothing.
var isOrdinary = func() (table [256]bool) {
	for c := ' '; c < utf8.RuneSelf; c++ {
		table[c] = c != '"' && c != '\\'
	}
	return table
}()

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isHex(c byte) bool { return isDigit(c) || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F' }

// unquote resolves the escapes of a string that quoted has passed. Bytes that
// are not UTF-8 and halves of surrogate pairs become U+FFFD each, as in
// encoding/json.
func unquote(raw string) string {
	var b strings.Builder
	b.Grow(len(raw))
	for {
		run, rest, escaped := strings.Cut(raw, `\`)
		if utf8.ValidString(run) {
			b.WriteString(run)
		} else {
			b.WriteString(string([]rune(run)))
		}
		if !escaped {
			return b.String()
		}
		raw = rest[1:]
		switch c := rest[0]; c {
		case 'b':
			b.WriteByte('\b')
		case 'f':
			b.WriteByte('\f')
		case 'n':
			b.WriteByte('\n')
		case 'r':
			b.WriteByte('\r')
		case 't':
			b.WriteByte('\t')
		case 'u':
			var r rune
			r, raw = unquoteRune(raw)
			b.WriteRune(r)
		default: // ", \ and / stand for themselves
			b.WriteByte(c)
		}
	}
}

// unquoteRune reads the character whose \u has been passed, and the second half
// of its surrogate pair.
func unquoteRune(text string) (r rune, rest string) {
	r, rest = hex4(text), text[4:]
	if !utf16.IsSurrogate(r) {
		return r, rest
	}
	if second, ok := strings.CutPrefix(rest, `\u`); ok {
		if pair := utf16.DecodeRune(r, hex4(second)); pair != utf8.RuneError {
			return pair, second[4:]
		}
	}
	return utf8.RuneError, rest
}

// hex4 reads four hexadecimal digits, which escape has checked.
func hex4(text string) rune {
	n, _ := strconv.ParseUint(text[:4], 16, 16)
	return rune(n)
}
