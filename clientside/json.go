package clientside

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

const (
	// maxFields, maxDepth and maxNames bound what is recorded of a document, not what it may
	// have elsewhere. The context of a SOPS file's key is six deep. Each field is recorded
	// with all names that lead to it, which a document has only once: maxNames is bytes.
	maxFields = 10_000
	maxDepth  = 8
	maxNames  = 1 << 20
)

// field is a scalar of a document, such as a string.
type field struct {
	// path leads to it: names, and "[0]" for the first of a list. After a first "---" of
	// YAML, doc counts documents.
	doc  int
	path []string
	// text is the string's value. The span is where it is written, without quotes.
	text string
	span
	// bad says why it is no string, or none that can be edited: "is ...".
	bad string
}

// isNull is of a value that is there and is none, which is as if it were not there.
const isNull = "is nothing"

// fields are those of a document, each path once.
type fields struct {
	all   []field
	seen  map[string]bool
	names int // bytes of those in seen
}

func (fs *fields) add(f field) error {
	if len(fs.all) == maxFields {
		return fmt.Errorf("it has more than %d values", maxFields)
	}
	for _, name := range f.path {
		fs.names += len(name) + 1
	}
	if fs.names > maxNames {
		return fmt.Errorf("it has values that are below names with more than %d bytes", maxNames)
	}
	if fs.seen == nil {
		fs.seen = map[string]bool{}
	}
	name := strconv.Itoa(f.doc) + "\x00" + strings.Join(f.path, "\x00")
	if fs.seen[name] {
		return fmt.Errorf("it has %.60q twice", strings.Join(f.path, "."))
	}
	fs.seen[name] = true
	fs.all = append(fs.all, f)
	return nil
}

// index is the element of a path that stands for a place in a list.
func index(i int) string { return "[" + strconv.Itoa(i) + "]" }

// below is the path to what has that name, or place, in what path leads to.
func below(path []string, name string) []string { return slices.Concat(path, []string{name}) }

var errNotJSON = errors.New("it is not JSON")

// scanJSON returns the scalars below the member of a JSON object, or all where it is "". The
// error is errNotJSON, or says why what is wanted is not to be read.
func scanJSON(body []byte, member string) ([]field, error) {
	if !json.Valid(body) { // which also bounds the depth
		return nil, errNotJSON
	}
	s := jsonScan{body: body, member: member}
	if s.space(); s.body[s.pos] != '{' {
		return nil, errors.New("it is not a JSON object")
	}
	err := s.value(nil, true)
	return s.fields.all, err
}

// jsonScan goes through a valid document.
type jsonScan struct {
	body   []byte
	pos    int
	member string
	found  bool
	fields fields
}

// space goes past what separates values and names.
func (s *jsonScan) space() {
	for strings.IndexByte(" \t\r\n:,", s.body[s.pos]) >= 0 {
		s.pos++
	}
}

// value goes past a value, and records it where it is wanted.
func (s *jsonScan) value(path []string, wanted bool) error {
	switch open := s.body[s.pos]; open {
	case '{', '[':
		return s.values(path, wanted, open == '{')
	case '"':
		f := field{path: path, span: s.string()}
		if !wanted {
			return nil
		}
		f.text = unquote(s.body[f.start-1 : f.end+1])
		return s.fields.add(f)
	default:
		for strings.IndexByte(",]} \t\r\n", s.body[s.pos]) < 0 {
			s.pos++
		}
		if !wanted {
			return nil
		}
		f := field{path: path, bad: "is no string"}
		if open == 'n' {
			f.bad = isNull
		}
		return s.fields.add(f)
	}
}

// values goes past an object or a list.
func (s *jsonScan) values(path []string, wanted, named bool) error {
	s.pos++
	for i := 0; ; i++ {
		if s.space(); s.body[s.pos] == '}' || s.body[s.pos] == ']' {
			s.pos++
			return nil
		}
		name, inside := "", wanted && len(path) < maxDepth
		if named {
			if at := s.string(); inside {
				name = unquote(s.body[at.start-1 : at.end+1])
			}
			s.space()
		} else if inside {
			name = index(i)
		}
		if inside && len(path) == 0 && s.member != "" {
			if inside = name == s.member; inside && s.found {
				return fmt.Errorf("it has %q twice", name)
			}
			s.found = s.found || inside
		}
		var at []string
		if inside {
			at = below(path, name)
		}
		if err := s.value(at, inside); err != nil {
			return err
		}
	}
}

// string goes past a string.
func (s *jsonScan) string() span {
	start := s.pos + 1
	for s.pos = start; s.body[s.pos] != '"'; s.pos++ {
		if s.body[s.pos] == '\\' {
			s.pos++
		}
	}
	s.pos++
	return span{start, s.pos - 1}
}

// unquote returns the value of a valid JSON string.
func unquote(quoted []byte) string {
	var text string
	if json.Unmarshal(quoted, &text) != nil {
		return ""
	}
	return text
}
