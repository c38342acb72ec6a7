package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// query is an advanced query: SELECT with WHERE and GROUP BY (Developer Guide, "Query
// Components"). ORDER BY, BETWEEN, and aggregates other than COUNT(*) are not modelled, and
// are errors; NULL and the keywords that AWS does not know are errors there too.
type query struct {
	fields []string // as they are written, COUNT(*) among them
	where  condition
	group  []string
}

const countAll = "COUNT(*)"

// condition is whether a document is wanted; nil for all.
type condition func(document map[string]any) bool

func (q query) counts() bool { return slices.Contains(q.fields, countAll) }

// run returns the rows of the answer: of each document the selected properties, in their
// nesting, or the groups with their number of documents.
func (q query) run(documents []map[string]any) []map[string]any {
	var rows []map[string]any
	groups := map[string]map[string]any{}
	for _, d := range documents {
		if q.where != nil && !q.where(d) {
			continue
		}
		row := map[string]any{}
		for _, name := range q.fields {
			if name != countAll {
				pick(row, d, strings.Split(name, "."))
			}
		}
		if !q.counts() {
			rows = append(rows, row)
			continue
		}
		id, _ := json.Marshal(row) // its members are sorted
		if groups[string(id)] == nil {
			groups[string(id)] = row
			row[countAll] = 0
		}
		groups[string(id)][countAll] = groups[string(id)][countAll].(int) + 1
	}
	for _, id := range slices.Sorted(maps.Keys(groups)) {
		rows = append(rows, groups[id])
	}
	return rows
}

// pick copies the property at the path from one object to another; what is not there is
// left out.
func pick(to, from map[string]any, path []string) {
	value, ok := from[path[0]]
	if !ok || value == nil {
		return
	}
	if len(path) == 1 {
		to[path[0]] = value
		return
	}
	switch v := value.(type) {
	case map[string]any:
		inner, _ := to[path[0]].(map[string]any)
		if inner == nil {
			inner = map[string]any{}
		}
		if pick(inner, v, path[1:]); len(inner) > 0 {
			to[path[0]] = inner
		}
	case []any:
		list, _ := to[path[0]].([]any)
		for i, element := range v {
			if len(list) <= i {
				list = append(list, map[string]any{})
			}
			if object, ok := element.(map[string]any); ok {
				pick(list[i].(map[string]any), object, path[1:])
			}
		}
		to[path[0]] = list
	}
}

// values returns what is at the path: of an array what is at it in each element.
func values(from any, path []string) []any {
	switch v := from.(type) {
	case []any:
		var all []any
		for _, element := range v {
			all = append(all, values(element, path)...)
		}
		return all
	case map[string]any:
		if len(path) > 0 {
			return values(v[path[0]], path[1:])
		}
	}
	if from == nil || len(path) > 0 {
		return nil
	}
	return []any{from}
}

// parser reads the tokens of a query.
type parser struct{ tokens []string }

// refused are the keywords that queries may not have.
var refused = []string{"ALL", "AS", "DISTINCT", "FROM", "HAVING", "JOIN", "UNION", "NULL", "IS", "BETWEEN", "ORDER"}

func parse(text string) (query, error) {
	tokens, err := split(text)
	if err != nil {
		return query{}, err
	}
	for _, t := range tokens {
		if slices.Contains(refused, strings.ToUpper(t)) {
			return query{}, fmt.Errorf("the keyword %s is not supported", t)
		}
	}
	p := &parser{tokens}
	q := query{}
	if !p.take("SELECT") {
		return q, errors.New("a query begins with SELECT")
	}
	if q.fields, err = p.properties(true); err != nil {
		return q, err
	}
	if p.take("WHERE") {
		if q.where, err = p.or(); err != nil {
			return q, err
		}
	}
	if p.take("GROUP") {
		if !p.take("BY") {
			return q, errors.New("BY follows GROUP")
		}
		if q.group, err = p.properties(false); err != nil {
			return q, err
		}
	}
	if len(p.tokens) > 0 {
		return q, fmt.Errorf("unexpected %q", p.tokens[0])
	}
	return q, q.check()
}

// check says what is wrong with the aggregation.
func (q query) check() error {
	if !q.counts() {
		if len(q.group) > 0 {
			return errors.New("GROUP BY is for aggregations")
		}
		return nil
	}
	if len(q.group) > 3 {
		return errors.New("GROUP BY may contain up to three properties")
	}
	for _, name := range q.fields {
		if name != countAll && !slices.Contains(q.group, name) {
			return fmt.Errorf("%s is selected and not in GROUP BY", name)
		}
	}
	return nil
}

// split returns the tokens of a query; a string keeps its first quote.
func split(text string) ([]string, error) {
	var tokens []string
	for i := 0; i < len(text); {
		switch c := text[i]; {
		case strings.ContainsRune(" \t\r\n", rune(c)):
			i++
		case c == '\'':
			value := "'"
			for i++; ; i++ {
				if i == len(text) {
					return nil, errors.New("a string has no end")
				}
				if text[i] == '\'' {
					if i++; i == len(text) || text[i] != '\'' { // a quote within is written twice
						break
					}
				}
				value += string(text[i])
			}
			tokens = append(tokens, value)
		case strings.HasPrefix(text[i:], "<>"), strings.HasPrefix(text[i:], "!="), strings.HasPrefix(text[i:], "<="), strings.HasPrefix(text[i:], ">="):
			tokens = append(tokens, text[i:i+2])
			i += 2
		case strings.ContainsRune("=<>(),*", rune(c)):
			tokens = append(tokens, text[i:i+1])
			i++
		default:
			end := i
			for end < len(text) && !strings.ContainsRune(" \t\r\n'=<>!(),*", rune(text[end])) {
				end++
			}
			if end == i {
				return nil, fmt.Errorf("unexpected %q", c)
			}
			tokens = append(tokens, text[i:end])
			i = end
		}
	}
	return tokens, nil
}

// take takes the next token if it is the keyword or sign.
func (p *parser) take(token string) bool {
	if len(p.tokens) == 0 || !strings.EqualFold(p.tokens[0], token) {
		return false
	}
	p.tokens = p.tokens[1:]
	return true
}

func (p *parser) next() (string, error) {
	if len(p.tokens) == 0 {
		return "", errors.New("the query ends too early")
	}
	t := p.tokens[0]
	p.tokens = p.tokens[1:]
	return t, nil
}

func (p *parser) property() (string, error) {
	t, err := p.next()
	if err != nil {
		return "", err
	}
	if strings.ContainsAny(t[:1], "'=<>!(),*") {
		return "", fmt.Errorf("%q is no property", t)
	}
	return t, nil
}

func (p *parser) properties(counts bool) ([]string, error) {
	var names []string
	for {
		name, err := p.property()
		if err != nil {
			return nil, err
		}
		if counts && strings.EqualFold(name, "COUNT") {
			if !p.take("(") || !p.take("*") || !p.take(")") {
				return nil, errors.New("localaws models no other aggregate than COUNT(*)")
			}
			name = countAll
		}
		names = append(names, name)
		if !p.take(",") {
			return names, nil
		}
	}
}

func (p *parser) or() (condition, error) {
	left, err := p.and()
	for err == nil && p.take("OR") {
		var right condition
		right, err = p.and()
		a := left
		left = func(d map[string]any) bool { return a(d) || right(d) }
	}
	return left, err
}

func (p *parser) and() (condition, error) {
	left, err := p.not()
	for err == nil && p.take("AND") {
		var right condition
		right, err = p.not()
		a := left
		left = func(d map[string]any) bool { return a(d) && right(d) }
	}
	return left, err
}

func (p *parser) not() (condition, error) {
	if p.take("NOT") {
		c, err := p.not()
		return func(d map[string]any) bool { return !c(d) }, err
	}
	if p.take("(") {
		c, err := p.or()
		if err == nil && !p.take(")") {
			err = errors.New("a parenthesis is not closed")
		}
		return c, err
	}
	return p.comparison()
}

// comparison reads a comparison of a property. It is true of an array if it is true of an
// element, and of nothing where the property is not there.
func (p *parser) comparison() (condition, error) {
	name, err := p.property()
	if err != nil {
		return nil, err
	}
	path := strings.Split(name, ".")
	some := func(is func(value any) bool) (condition, error) {
		return func(d map[string]any) bool { return slices.ContainsFunc(values(d, path), is) }, nil
	}
	if p.take("IN") {
		if !p.take("(") {
			return nil, errors.New("a list follows IN")
		}
		var list []any
		for {
			value, err := p.literal()
			if err != nil {
				return nil, err
			}
			list = append(list, value)
			if !p.take(",") {
				break
			}
		}
		if !p.take(")") {
			return nil, errors.New("the list is not closed")
		}
		return some(func(value any) bool { return slices.Contains(list, value) })
	}
	if p.take("LIKE") {
		value, err := p.literal()
		prefix, wild := strings.CutSuffix(fmt.Sprint(value), "%")
		if err == nil && (!wild || strings.ContainsAny(prefix, "%_") || len(prefix) < 3) {
			err = errors.New("only a wildcard at the end, after at least three characters, is supported")
		}
		if err != nil {
			return nil, err
		}
		return some(func(value any) bool { text, ok := value.(string); return ok && strings.HasPrefix(text, prefix) })
	}
	sign, err := p.next()
	if err != nil {
		return nil, err
	}
	value, err := p.literal()
	if err != nil {
		return nil, err
	}
	switch sign {
	case "=":
		return some(func(v any) bool { return v == value })
	case "<>", "!=":
		return some(func(v any) bool { return v != value })
	}
	return nil, fmt.Errorf("localaws does not model the comparison %s", sign)
}

// literal reads a string, a number or a boolean value.
func (p *parser) literal() (any, error) {
	t, err := p.next()
	if err != nil {
		return nil, err
	}
	if text, ok := strings.CutPrefix(t, "'"); ok {
		return text, nil
	}
	switch strings.ToLower(t) {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	number, err := strconv.ParseFloat(t, 64)
	if err != nil {
		return nil, fmt.Errorf("%q is no value", t)
	}
	return number, nil
}
