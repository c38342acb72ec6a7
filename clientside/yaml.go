package clientside

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// scanYAML returns the metadata of a SOPS file in YAML: what lies below the name "sops" of
// each document.
//
// It is no reader of YAML. It goes through what comes before and after by the rules for
// quotes, brackets and block texts, so that it does not take a line of a text for a name,
// and reads "sops" in the way that SOPS writes it: one line for each value, indented.
// Everything else is an error, never a guess.
func scanYAML(body []byte) ([]field, error) {
	for _, separator := range []string{"\u0085", "\u2028", "\u2029"} {
		if bytes.Contains(body, []byte(separator)) {
			return nil, errors.New("it has line separators of another kind than \\n")
		}
	}
	if i := bytes.IndexByte(body, '\r'); i >= 0 && bytes.Count(body, []byte("\r")) != bytes.Count(body, []byte("\r\n")) {
		return nil, errors.New("it has line separators of another kind than \\n")
	}
	y := yamlScan{body: body, source: string(body), plain: -1}
	if bytes.HasPrefix(body, []byte("\ufeff")) {
		y.next = len("\ufeff")
	}
	y.read()
	started, found := false, false // of the document
	for !y.end {
		text := y.text()
		switch marker := len(text) >= 3 && (len(text) == 3 || text[3] == ' '); {
		case y.indent == 0 && marker && (text[:3] == "---" || text[:3] == "..."):
			if rest := strings.TrimSpace(text[3:]); rest != "" && rest[0] != '#' {
				return nil, y.odd()
			}
			if started {
				y.doc++
			}
			started, found, y.plain = false, false, -1
			y.read()
			continue
		case y.indent == 0 && text[0] == '%':
			return nil, y.odd()
		}
		started = true
		key, at, ok := y.key()
		if y.indent != 0 || !ok || key != sopsMember {
			if err := y.skim(); err != nil {
				return nil, err
			}
			continue
		}
		if found {
			return nil, fmt.Errorf("it has %q twice", sopsMember)
		}
		found = true
		if rest := text[at:]; rest != "" && rest[0] != '#' {
			return nil, y.odd()
		}
		y.plain = -1
		if y.read(); !y.end && y.indent > 0 {
			if err := y.mapping(y.indent, nil); err != nil {
				return nil, err
			}
		}
	}
	return y.fields.all, nil
}

// yamlScan goes through the lines that are neither empty nor comments.
type yamlScan struct {
	body   []byte
	source string // the same, so that lines need no copies
	// The line: start is where its text begins, after indent spaces, and stop where it
	// ends. The next line begins at next.
	start, indent, stop, next int
	end                       bool
	// open is the indent of the last name or dash that had no value on its line, and plain
	// that of the last one whose value was not quoted; -1 where the value was another.
	open, plain int
	doc         int
	fields      fields
}

// read goes to the next line.
func (y *yamlScan) read() {
	for y.next < len(y.body) {
		begin := y.next
		text, next := line(y.body, begin)
		y.next = next
		y.stop = begin + len(bytes.TrimRight(text, " \t"))
		y.indent = len(text) - len(bytes.TrimLeft(text, " "))
		y.start = begin + y.indent
		if y.start < y.stop && y.body[y.start] != '#' {
			return
		}
	}
	y.end = true
}

func (y *yamlScan) text() string { return y.source[y.start:y.stop] }

// odd is the error for what may be good YAML, but is not what SOPS writes.
func (y *yamlScan) odd() error {
	return fmt.Errorf("line %d is written in a way that is not edited: decrypt and encrypt it with sops to have it written anew", bytes.Count(y.body[:y.start], []byte("\n"))+1)
}

// key returns the name that the line begins with, and where in the text its value begins.
func (y *yamlScan) key() (name string, at int, ok bool) {
	text := y.text()
	var end int // where the colon is
	switch text[0] {
	case '[', '{':
		return "", 0, false
	case '"', '\'':
		n := closing(text)
		if n < 0 {
			return "", 0, false
		}
		if name, ok = unquoteYAML(text[:n]); !ok {
			return "", 0, false
		}
		end = n + len(text[n:]) - len(strings.TrimLeft(text[n:], " "))
		if end == len(text) || text[end] != ':' {
			return "", 0, false
		}
	default:
		for end = 0; ; end++ {
			i := strings.IndexByte(text[end:], ':')
			if i < 0 {
				return "", 0, false
			}
			if end += i; end+1 == len(text) || text[end+1] == ' ' || text[end+1] == '\t' {
				break
			}
		}
		if i := strings.Index(text[:end], " #"); i >= 0 {
			return "", 0, false
		}
		name = strings.TrimRight(text[:end], " \t")
	}
	rest := text[end+1:]
	if rest != "" && rest[0] != ' ' && rest[0] != '\t' {
		return "", 0, false
	}
	return name, end + 1 + len(rest) - len(strings.TrimLeft(rest, " \t")), true
}

// closing returns where the quoted text that text begins with ends, and -1 where it does not.
func closing(text string) int {
	quote := text[0]
	for i := 1; i < len(text); i++ {
		switch {
		case quote == '"' && text[i] == '\\':
			i++
		case text[i] == quote && quote == '\'' && strings.HasPrefix(text[i+1:], "'"):
			i++
		case text[i] == quote:
			return i + 1
		}
	}
	return -1
}

// unquoteYAML returns the value of a quoted text.
func unquoteYAML(quoted string) (string, bool) {
	inner := quoted[1 : len(quoted)-1]
	if quoted[0] == '\'' {
		return strings.ReplaceAll(inner, "''", "'"), true
	}
	if !strings.Contains(inner, `\`) {
		return inner, true
	}
	var text string // the escapes of JSON mean the same in YAML
	err := json.Unmarshal([]byte(quoted), &text)
	return text, err == nil
}

// dash goes past a dash that the line begins with. The line is then what follows, at its
// own indent.
func (y *yamlScan) dash() bool {
	if y.start == y.stop || y.body[y.start] != '-' || y.start+1 < y.stop && y.body[y.start+1] != ' ' {
		return false
	}
	rest := y.body[y.start+1 : y.stop]
	n := 1 + len(rest) - len(bytes.TrimLeft(rest, " "))
	y.start, y.indent = y.start+n, y.indent+n
	return true
}

// skim goes past a line that is not of "sops", and past the lines of a text or brackets
// that begin on it.
func (y *yamlScan) skim() error {
	if y.plain >= 0 && y.indent > y.plain { // what is not quoted goes on
		y.read()
		return nil
	}
	parent, named := y.open, false
	atLeft := y.indent == 0
	for indent := y.indent; y.dash(); indent = y.indent {
		parent, named = indent, true
	}
	value := y.text()
	if value == "?" || strings.HasPrefix(value, "? ") || strings.HasPrefix(value, "\t") {
		return y.odd()
	}
	if value != "" {
		if _, at, ok := y.key(); ok {
			parent, named, value = y.indent, true, value[at:]
		}
	}
	if atLeft && !named {
		return y.odd()
	}
	for value != "" && (value[0] == '&' || value[0] == '!') { // anchors and tags
		_, rest, _ := strings.Cut(value, " ")
		value = strings.TrimLeft(rest, " \t")
	}
	y.plain = -1
	if value == "" || value[0] == '#' {
		y.open = parent
		y.read()
		return nil
	}
	switch value[0] {
	case '"', '\'', '[', '{':
		return y.skimFlow(y.stop - len(value))
	case '|', '>':
		y.skimBlock(parent)
	default:
		y.plain = parent
		y.read()
	}
	return nil
}

// skimBlock goes past a block text, whose lines are indented further than parent.
func (y *yamlScan) skimBlock(parent int) {
	for y.next < len(y.body) {
		text, next := line(y.body, y.next)
		if rest := bytes.TrimLeft(text, " "); len(rest) > 0 && len(text)-len(rest) <= parent {
			break
		}
		y.next = next
	}
	y.read()
}

// skimFlow goes past what is quoted or in brackets, over lines, to the end of the line that
// it ends on. A line of it that begins at the left could be taken for a name, and is an
// error.
func (y *yamlScan) skimFlow(at int) error {
	depth := 0
	quote, last := byte(0), byte(0) // last is the one before, but for spaces
	quoted := false                 // the colon follows a quote, as in JSON
	for pos := at; pos < len(y.body); pos++ {
		c := y.body[pos]
		if c == '\n' && pos+1 < len(y.body) && bytes.IndexByte([]byte(" \t\r\n]}"), y.body[pos+1]) < 0 {
			return y.odd()
		}
		switch {
		case quote == '"' && c == '\\':
			pos++
			if pos < len(y.body) && y.body[pos] == '\n' {
				pos--
			}
		case quote == '\'' && c == quote && pos+1 < len(y.body) && y.body[pos+1] == quote:
			pos++
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			// Inside of an unquoted text it is a letter.
			before := y.body[pos-1]
			switch space := bytes.IndexByte([]byte(" \t\n"), before) >= 0; {
			case pos == at, bytes.IndexByte([]byte("[{,"), last) >= 0, last == ':' && (space || quoted):
				quote = c
			case space, last == ':':
				return y.odd() // which of the two it is is not looked at
			}
		case c == '[' || c == '{':
			depth++
		case c == ']' || c == '}':
			depth--
		case c == '#' && bytes.IndexByte([]byte(" \t\n"), y.body[pos-1]) >= 0:
			i := bytes.IndexByte(y.body[pos:], '\n')
			if i < 0 {
				return y.odd()
			}
			pos += i - 1
		}
		if bytes.IndexByte([]byte(" \t\r\n"), c) < 0 {
			quoted = c == ':' && (last == '"' || last == '\'')
			last = c
		}
		if quote != 0 || depth > 0 {
			continue
		}
		text, next := line(y.body, pos+1)
		if rest := strings.TrimSpace(string(text)); rest != "" && rest[0] != '#' {
			return y.odd()
		}
		y.next = next
		y.read()
		return nil
	}
	return y.odd()
}

// mapping reads names and their values, which all have that indent.
func (y *yamlScan) mapping(indent int, path []string) error {
	for !y.end && y.indent == indent {
		name, at, ok := y.key()
		if !ok || strings.IndexByte("-&!*?%@`|>,", y.body[y.start]) >= 0 || len(path) == maxDepth {
			return y.odd()
		}
		if err := y.value(indent, at, below(path, name), true); err != nil {
			return err
		}
	}
	if !y.end && y.indent > indent {
		return y.odd()
	}
	return nil
}

// sequence reads a list whose dashes have that indent.
func (y *yamlScan) sequence(indent int, path []string) error {
	for i := 0; !y.end && y.indent == indent && y.dash(); i++ {
		at := below(path, index(i))
		read := func() error { return y.value(indent, 0, at, false) }
		if y.start < y.stop {
			if _, _, ok := y.key(); ok {
				read = func() error { return y.mapping(y.indent, at) }
			}
		}
		if len(path) == maxDepth {
			return y.odd()
		}
		if err := read(); err != nil {
			return err
		}
	}
	if !y.end && y.indent > indent {
		return y.odd()
	}
	return nil
}

// value reads the value of a name or dash at indent, which begins at that place of the text.
func (y *yamlScan) value(indent, at int, path []string, named bool) error {
	text := ""
	if y.start < y.stop {
		text = y.text()[at:]
	}
	f := field{doc: y.doc, path: path, span: span{y.start + at, y.stop}}
	switch {
	case text == "" || text[0] == '#':
		y.read()
		switch list := !y.end && y.body[y.start] == '-'; {
		case list && (y.indent > indent || named && y.indent == indent): // it may be indented as its name is
			return y.sequence(y.indent, path)
		case !y.end && y.indent > indent:
			return y.mapping(y.indent, path)
		}
		f.bad = isNull
		return y.fields.add(f)
	case text[0] == '"' || text[0] == '\'':
		n := closing(text)
		if n < 0 {
			return y.odd()
		}
		if rest := strings.TrimSpace(text[n:]); rest != "" && (rest[0] != '#' || text[n] != ' ') {
			return y.odd()
		}
		f.span = span{f.start + 1, f.start + n - 1}
		var ok bool
		if f.text, ok = unquoteYAML(text[:n]); !ok {
			f.bad = "is written in a way that is not edited"
		}
	case text[0] == '|' || text[0] == '>':
		f.bad = "is written in more than one line"
		y.skimBlock(indent)
		return y.fields.add(f)
	default:
		if strings.Contains(text, "\t#") {
			return y.odd()
		}
		if i := strings.Index(text, " #"); i >= 0 {
			text = strings.TrimRight(text[:i], " \t")
		}
		f.text, f.end = text, f.start+len(text)
		switch text {
		case "[]", "{}", "null", "~", "Null", "NULL":
			f.bad = isNull
		default:
			if strings.ContainsRune("&*!%@`[]{},?-", rune(text[0])) || strings.Contains(text, ": ") || strings.HasSuffix(text, ":") {
				return y.odd()
			}
			if !plainString(text) {
				f.bad = "is no string"
			}
		}
	}
	y.read()
	return y.fields.add(f)
}

// plainString reports whether what is not quoted is a string, and no number, date or the
// like. Where that is not certain, it says no.
func plainString(text string) bool {
	switch strings.ToLower(text) {
	case "", "true", "false", "yes", "no", "on", "off", "y", "n", "null", "~", "<<", "=", ".inf", "-.inf", "+.inf", ".nan":
		return false
	}
	digits := strings.ReplaceAll(text, "_", "")
	if _, err := strconv.ParseFloat(digits, 64); err == nil || errors.Is(err, strconv.ErrRange) {
		return false
	}
	if _, err := strconv.ParseInt(digits, 0, 64); err == nil || errors.Is(err, strconv.ErrRange) {
		return false
	}
	// 2006-01-02 and all that begins like it
	return len(text) < 5 || text[4] != '-' || strings.Trim(text[:4], "0123456789") != ""
}
