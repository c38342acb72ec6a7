package dependents

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/awsconfig"
	"github.com/cmkeeper/cmkeeper/inventory"
)

// ofConfig asks AWS Config for all resources whose key is this one: a page of them, and
// their number where there are more.
func ofConfig(ctx context.Context, api awsconfig.API, key inventory.Key, aliases Read[[]inventory.Alias]) Source {
	s := Source{ID: SourceConfig, Name: "AWS Config, as its recorder last saw them", At: time.Now()}
	if api == nil {
		s.unknown("", errors.New("AWS Config is not asked here"), "")
		return s
	}
	recorder, err := awsconfig.Read(ctx, api)
	if err != nil { // what it finds is there nevertheless
		s.unknown("", err, awsconfig.Permissions)
	} else {
		s.Unknown = missed(recorder)
	}
	if err == nil && !recorder.Exists {
		return s
	}
	if err == nil && recorder.Daily {
		s.Name = "AWS Config, as its recorder last saw them, once a day"
	}
	if aliases.Err != nil {
		s.unknown("resources that name the key by an alias", aliases.Err, "kms:ListAliases")
	}
	expressions, exact := conditions(names(key, aliases.Value))
	for _, where := range expressions {
		rows, more, err := awsconfig.Select(ctx, api, selectRows+where, 1)
		s.found(rows)
		if err != nil {
			s.unknown("", err, awsconfig.Permissions)
			return s
		}
		switch {
		case more && exact:
			s.count(ctx, api, where)
		case more:
			s.unknown("further resources", fmt.Errorf("there are more than the first %d", awsconfig.PageSize), "")
		}
	}
	return s
}

// missed says which types the recorder does not record. What is true of all of them is said
// once.
func missed(r awsconfig.Recorder) []Unknown {
	if why := r.Misses(""); !r.Exists || !r.Recording || r.Failure != "" {
		return []Unknown{{ID: "dependents:" + SourceConfig, Why: why}}
	}
	var unknown []Unknown
	for _, t := range awsconfig.Types {
		if why := r.Misses(t.Name); why != "" && len(t.Keys) > 0 {
			unknown = append(unknown, Unknown{ID: "dependents:" + t.Name, Of: several(t.Title), Why: why})
		}
	}
	return unknown
}

// names are all by which a resource may name a key: its ARN and id, and its aliases by name
// and ARN.
func names(key inventory.Key, aliases []inventory.Alias) []string {
	all := []string{key.ARN, key.ID}
	for _, a := range aliases {
		all = append(all, a.Name, a.ARN)
	}
	return slices.DeleteFunc(all, func(name string) bool { return name == "" })
}

const (
	selectRows   = "SELECT resourceType, resourceId, resourceName, arn, configurationItemCaptureTime WHERE "
	selectCounts = "SELECT resourceType, COUNT(*) WHERE "
	groupCounts  = " GROUP BY resourceType"
)

// conditions returns the conditions that together find every resource with one of the names
// in a property for its key, each short enough for a query. exact: a type of awsconfig.Types
// is found by one of them alone, so that their numbers can be added up; with very many names
// it is not. Other types with a property of the same name are found, too.
func conditions(names []string) (all []string, exact bool) {
	const room = awsconfig.MaxExpression - max(len(selectRows), len(selectCounts)+len(groupCounts))
	exact = true
	add := func(term string) {
		if last := len(all) - 1; last >= 0 && len(all[last])+len(" OR ")+len(term) <= room {
			all[last] += " OR " + term
			return
		}
		all = append(all, term)
	}
	for _, paths := range groups() {
		if term := anyOf(paths, names); len(term) <= room {
			add(term)
			continue
		}
		exact = false
		for _, path := range paths {
			for n, rest := len(names), names; len(rest) > 0; {
				for n = min(n, len(rest)); n > 1 && len(anyOf([]string{path}, rest[:n])) > room; {
					n /= 2
				}
				add(anyOf([]string{path}, rest[:n]))
				rest = rest[n:]
			}
		}
	}
	return all, exact
}

// anyOf is the condition that one of the properties has one of the values.
func anyOf(paths, values []string) string {
	var quoted, terms []string
	for _, v := range values {
		quoted = append(quoted, awsconfig.Quote(v))
	}
	for _, path := range paths {
		terms = append(terms, path+" IN ("+strings.Join(quoted, ",")+")")
	}
	return strings.Join(terms, " OR ")
}

// groups are the properties of all types, together those that one type has.
func groups() [][]string {
	var groups [][]string
	for _, t := range awsconfig.Types {
		var joined []string
		groups = slices.DeleteFunc(groups, func(g []string) bool {
			shared := slices.ContainsFunc(g, func(path string) bool { return slices.Contains(t.Keys, path) })
			if shared {
				joined = append(joined, g...)
			}
			return shared
		})
		for _, path := range t.Keys {
			if !slices.Contains(joined, path) {
				joined = append(joined, path)
			}
		}
		if len(joined) > 0 {
			groups = append(groups, joined)
		}
	}
	return groups
}

// found adds the resources of an answer.
func (s *Source) found(rows []json.RawMessage) {
	unread := 0
	for _, row := range rows {
		var r struct {
			ResourceType, ResourceID, ResourceName, ARN string
			Captured                                    string `json:"configurationItemCaptureTime"`
		}
		if err := json.Unmarshal(row, &r); err != nil || r.ResourceType == "" || r.ResourceID == "" {
			unread++
			continue
		}
		d := Dependent{Resource: Resource{Kind: awsconfig.TypeOf(r.ResourceType).Kind, ID: shorten(r.ResourceID), ARN: r.ARN}}
		if r.ResourceName != r.ResourceID && r.ResourceName != r.ARN {
			d.Name = shorten(r.ResourceName)
		}
		d.At, _ = time.Parse(time.RFC3339, r.Captured) // without it the time is not known
		s.add(d)
	}
	if unread > 0 {
		s.unknown("", fmt.Errorf("%d rows of its answer could not be read", unread), "")
	}
}

// count finds out how many resources there are beside those that were found.
func (s *Source) count(ctx context.Context, api awsconfig.API, where string) {
	rows, more, err := awsconfig.Select(ctx, api, selectCounts+where+groupCounts, 1)
	if err == nil && more {
		err = errors.New("they are of more types than a page has")
	}
	if s.More == nil {
		s.More = map[string]int{}
	}
	for _, row := range rows {
		var r struct {
			ResourceType string
			N            int `json:"COUNT(*)"`
		}
		if unread := json.Unmarshal(row, &r); unread != nil {
			err = errors.Join(err, unread)
			continue
		}
		kind := awsconfig.TypeOf(r.ResourceType).Kind
		for _, d := range s.Found {
			if d.Kind == kind {
				r.N--
			}
		}
		if r.N > 0 {
			s.More[kind] = r.N
		}
	}
	if err != nil {
		s.unknown("the number of further resources", err, awsconfig.Permissions)
	}
}
