package clientside

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// line returns the line that begins at pos without its end, and where the next one begins.
func line(body []byte, pos int) (text []byte, next int) {
	text = body[pos:]
	if i := bytes.IndexByte(text, '\n'); i >= 0 {
		text = text[:i]
	}
	next = pos + len(text) + 1
	return bytes.TrimSuffix(text, []byte("\r")), next
}

// scanDotenv returns the metadata of a SOPS file in dotenv form: lines NAME=VALUE.
func scanDotenv(body []byte) ([]field, error) {
	var fs fields
	for pos := 0; pos < len(body); {
		text, next := line(body, pos)
		name, value, ok := strings.Cut(string(text[:min(len(text), maxFlatLine)]), "=")
		if rest, ours := strings.CutPrefix(name, sopsMember+"_"); ok && ours {
			at := pos + len(name) + 1
			f := flatField(rest, value, span{at, at + len(value)})
			if len(text) > maxFlatLine {
				f.bad = "is too long"
			}
			if err := fs.add(f); err != nil {
				return nil, err
			}
		}
		pos = next
	}
	return fs.all, nil
}

// maxFlatLine is the most bytes of a line that are looked at. What is to be edited is
// shorter.
const maxFlatLine = 64 << 10

// flatField is a value whose path is one name, as SOPS writes it where there are no
// nested values (stores/flatten.go).
func flatField(name, value string, at span) field {
	f := field{span: at, text: strings.ReplaceAll(value, `\n`, "\n")}
	const inList, inMap = "__list_", "__map_"
	for list := false; ; {
		token, rest := name, ""
		i, l := strings.Index(name, inMap), strings.Index(name, inList)
		end, isList, skip := i, false, len(inMap)
		if l >= 0 && (i < 0 || l < i) {
			end, isList, skip = l, true, len(inList)
		}
		if end >= 0 {
			token, rest = name[:end], name[end+skip:]
		}
		if n, err := strconv.Atoi(token); list && err == nil {
			token = index(n)
		}
		f.path = append(f.path, token)
		if end < 0 || len(f.path) == maxDepth {
			return f
		}
		name, list = rest, isList
	}
}

// scanINI returns the metadata of a SOPS file in INI form: lines NAME = VALUE of section
// [sops]. It reads what gopkg.in/ini.v1, which SOPS uses, writes; other ways are refused.
func scanINI(body []byte) ([]field, error) {
	var fs fields
	ours, sections := false, 0
	for pos := 0; pos < len(body); {
		start := pos
		text, next := line(body, pos)
		pos = next
		indent := len(text) - len(bytes.TrimLeft(text, " \t"))
		text = bytes.TrimRight(text[indent:], " \t")
		if len(text) == 0 || text[0] == '#' || text[0] == ';' {
			continue
		}
		if text[0] == '[' {
			if ours = string(text) == "["+sopsMember+"]"; ours {
				sections++
			}
			continue
		}
		name, value, at, err := iniPair(text)
		if err != nil {
			return nil, err
		}
		f := flatField(name, value, span{start + indent + at, start + indent + at + len(value)})
		if len(text) > maxFlatLine {
			f.text, f.bad = "", "is too long"
		}
		quote := ""
		for _, q := range []string{`"""`, "`", `"`, "'"} {
			if quote == "" && strings.HasPrefix(value, q) {
				quote = q
			}
		}
		inner, closed := strings.CutSuffix(strings.TrimPrefix(value, quote), quote)
		switch {
		case quote == "":
			if strings.HasSuffix(value, `\`) || strings.ContainsAny(value, "#;") {
				f.bad = "is written in a way that is not edited"
			}
			for strings.HasSuffix(value, `\`) && pos < len(body) { // it goes on in the next line
				text, next = line(body, pos)
				value, pos = string(bytes.TrimSpace(text)), next
			}
		case closed && len(value) >= 2*len(quote) && !strings.Contains(inner, quote):
			f = flatField(name, inner, span{f.start + len(quote), f.end - len(quote)})
		default:
			f.bad = "is written in a way that is not edited"
			if len(quote) != 3 && quote != "`" {
				break
			}
			if i := bytes.Index(body[start+indent+at+len(quote):], []byte(quote)); i < 0 {
				return nil, errors.New("it has a quote that does not end")
			} else if end := start + indent + at + len(quote) + i; end >= pos {
				_, pos = line(body, end)
			}
		}
		if ours {
			if err := fs.add(f); err != nil {
				return nil, err
			}
		}
	}
	if sections > 1 {
		return nil, fmt.Errorf("it has %d sections [%s]", sections, sopsMember)
	}
	return fs.all, nil
}

// iniPair takes NAME = VALUE apart; at is where the value begins.
func iniPair(text []byte) (name, value string, at int, err error) {
	start, end := 0, bytes.IndexAny(text, "=:")
	for _, quote := range []string{`"""`, "`", `"`} {
		if bytes.HasPrefix(text, []byte(quote)) {
			start = len(quote)
			n := bytes.Index(text[start:], []byte(quote))
			if n < 0 {
				return "", "", 0, errors.New("it has a name whose quote does not end")
			}
			name = string(text[start : start+n])
			after := start + n + len(quote)
			if end = bytes.IndexAny(text[after:], "=:"); end >= 0 {
				end += after
			}
			break
		}
	}
	if end < 0 {
		return "", "", 0, fmt.Errorf("it has a line that is neither a section nor a name and a value")
	}
	if start == 0 {
		name = string(bytes.TrimSpace(text[:end]))
	}
	rest := text[end+1:]
	at = end + 1 + len(rest) - len(bytes.TrimLeft(rest, " \t"))
	return name, string(text[at:]), at, nil
}
