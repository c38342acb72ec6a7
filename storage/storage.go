// Package storage says by AWS Config how storage is encrypted: what is not encrypted, what
// is under a key that cannot be used or that belongs to an account that is not trusted, and
// what has other tags than its key.
//
// AWS Config is asked for numbers by key, and for the first resources of what is wrong. Only
// tags take a look at each resource that has them. What is kept does not grow with the
// resources: a number and a few examples for each type. What could not be looked at is in
// [Look.Gaps], and never counts as being as it should.
package storage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/aws/smithy-go"
	"golang.org/x/time/rate"

	"github.com/cmkeeper/cmkeeper/awsconfig"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/posture"
)

// Rule is what storage is judged by.
type Rule string

// The rules.
const (
	// Unencrypted: the resource is not encrypted at all.
	Unencrypted Rule = "unencrypted"
	// Unusable: its key is disabled, pending deletion, without material, or does not exist.
	Unusable Rule = "unusable-key"
	// Foreign: its key belongs to an account that is not trusted.
	Foreign Rule = "foreign-key"
	// OtherTag: a tag of it has another value than the same tag of its key.
	OtherTag Rule = "tag"
)

// severity is how grave it is. Another tag is a matter of order.
func (r Rule) severity() finding.Severity {
	switch r {
	case Foreign:
		return finding.High
	case OtherTag:
		return finding.Low
	case Unencrypted, Unusable:
	}
	return finding.Medium
}

const (
	namePrefix = "storage/"
	// Unread is the name of the danger that not all could be looked at.
	Unread = namePrefix + "unread"
)

// IsName reports whether a danger of that name is one of this package.
func IsName(name string) bool { return strings.HasPrefix(name, namePrefix) }

// nameOf names what is wrong with resources of a type by a rule; tag is that of OtherTag.
func nameOf(r Rule, tag, kind string) string {
	if r == OtherTag {
		kind = tag + "/" + kind
	}
	return namePrefix + string(r) + "/" + kind
}

// Rules are what is judged by.
type Rules struct {
	// Keys say which accounts are trusted.
	Keys posture.Rules
	// Region is where storage and keys are.
	Region string
	// Tags are the names of the tags that a resource and its key should have in common, if
	// both have them.
	Tags []string
}

// Keys is what is asked about keys; *inventory.Reader has it.
type Keys interface {
	Key(ctx context.Context, name string) (inventory.Key, error)
	Tags(ctx context.Context, keyARN string) (map[string]string, error)
}

// Found is what is wrong with resources of one type.
type Found struct {
	// Name is the same as long as it lasts.
	Name     string
	Rule     Rule
	Tag      string // of OtherTag
	Type     awsconfig.Type
	Severity finding.Severity
	// Count is how many resources there are (one that names two such keys counts twice), and
	// Examples a few of them, with what is wrong.
	// Parts of the texts are names that somebody gave: escape them.
	Count    int
	Examples []string
}

// Look is what AWS Config showed at a time.
type Look struct {
	At time.Time
	// Found is sorted, the gravest first.
	Found []Found
	gaps  map[string]string // why a danger of a name would not have been seen
	types map[string]string // and of a whole type, by its title
}

// Looked reports whether what was read would show a danger of that name.
func (l Look) Looked(name string) bool {
	_, gap := l.gaps[name]
	return !gap
}

// Nothing reports whether nothing could be looked at.
func (l Look) Nothing() bool { return len(l.types) == len(types()) }

// maxTitles is how many types a reason names.
const maxTitles = 6

// Gaps are the reasons for which something was not looked at, each with what that is.
func (l Look) Gaps() []string {
	of := map[string][]string{}
	for title, why := range l.types {
		of[why] = append(of[why], title)
	}
	for name, why := range l.gaps {
		if _, kind, _ := cutLast(name); l.types[awsconfig.TypeOf(typeOfKind(kind)).Title] == "" {
			of[why] = append(of[why], strings.TrimPrefix(name, namePrefix))
		}
	}
	var all []string
	for _, why := range slices.Sorted(maps.Keys(of)) {
		titles := of[why]
		slices.Sort(titles)
		more := ""
		if n := len(titles) - maxTitles; n > 0 {
			titles, more = titles[:maxTitles], fmt.Sprintf(" and %d more", n)
		}
		all = append(all, strings.Join(titles, ", ")+more+": "+why)
	}
	return all
}

func cutLast(name string) (before, after string, ok bool) {
	i := strings.LastIndexByte(name, '/')
	return name[:max(i, 0)], name[i+1:], i >= 0
}

func typeOfKind(kind string) string {
	i := slices.IndexFunc(awsconfig.Types, func(t awsconfig.Type) bool { return t.Kind == kind })
	if i < 0 {
		return ""
	}
	return awsconfig.Types[i].Name
}

// types are those that AWS Config finds by their key.
func types() []awsconfig.Type {
	return slices.DeleteFunc(slices.Clone(awsconfig.Types), func(t awsconfig.Type) bool { return len(t.Keys) == 0 })
}

const (
	// perSecond is how often AWS Config is asked: it says no quota, and others ask as well.
	perSecond = 2
	// mostGroups bounds the keys of a type, mostPages the pages of resources with tags: as
	// many as an account has with 100,000 resources of a type.
	mostGroups, mostPages = 100, 1000
	// maxExamples is how many resources are named of what is found, of mostKeys keys.
	maxExamples, mostKeys = 10, 3
)

// Read asks AWS Config, and KMS about the keys that it names. Its error says that ctx is
// done; all else that fails is a gap.
func Read(ctx context.Context, api awsconfig.API, keys Keys, rules Rules) (Look, error) {
	r := reader{
		Look: Look{At: time.Now().UTC(), gaps: map[string]string{}, types: map[string]string{}},
		api:  paced{api, rate.NewLimiter(perSecond, 1)}, keys: keys, rules: rules,
		known: map[string]use{}, tags: map[string]tagged{}, found: map[string]*Found{},
	}
	recorder, err := awsconfig.Read(ctx, r.api)
	for _, t := range types() {
		switch {
		case ctx.Err() != nil:
		case err != nil:
			r.gapOfType(t, err.Error())
		case recorder.Misses(t.Name) != "":
			r.gapOfType(t, recorder.Misses(t.Name))
		default:
			err = r.look(ctx, t)
		}
	}
	if ctx.Err() != nil {
		return Look{}, context.Cause(ctx)
	}
	for _, name := range slices.Sorted(maps.Keys(r.found)) {
		r.Found = append(r.Found, *r.found[name])
	}
	slices.SortStableFunc(r.Found, func(a, b Found) int { return b.Severity.Rank() - a.Severity.Rank() })
	return r.Look, nil
}

// paced asks AWS Config no faster than the limiter allows.
type paced struct {
	awsconfig.API
	limit *rate.Limiter
}

func (p paced) Call(ctx context.Context, operation string, in, out any) error {
	if err := p.limit.Wait(ctx); err != nil {
		return err
	}
	return p.API.Call(ctx, operation, in, out)
}

// reader reads one Look.
type reader struct {
	Look
	api   awsconfig.API
	keys  Keys
	rules Rules
	known map[string]use    // by the name of a key
	tags  map[string]tagged // by key
	found map[string]*Found
}

// tagged is a key's tags as far as they matter, or why they are not known.
type tagged struct {
	values map[string]string
	err    error
}

// look looks at a type. Its error is one that asking for other types meets as well.
func (r *reader) look(ctx context.Context, t awsconfig.Type) error {
	for _, step := range []func(context.Context, awsconfig.Type) error{r.unencrypted, r.underKeys, r.otherTags} {
		if err := step(ctx, t); denied(err) {
			r.gapOfType(t, err.Error())
			return err
		}
	}
	return nil
}

func denied(err error) bool {
	api, ok := errors.AsType[smithy.APIError](err)
	return ok && strings.Contains(api.ErrorCode(), "AccessDenied")
}

// ofRules calls do with all names that dangers of a type can have.
func (r *reader) ofRules(t awsconfig.Type, do func(name string)) {
	for _, rule := range []Rule{Unencrypted, Unusable, Foreign} {
		do(nameOf(rule, "", t.Kind))
	}
	for _, tag := range r.rules.Tags {
		do(nameOf(OtherTag, tag, t.Kind))
	}
}

func (r *reader) gapOfType(t awsconfig.Type, why string) {
	r.types[t.Title] = why
	r.ofRules(t, func(name string) { r.gaps[name] = why })
}

func (r *reader) gap(rule Rule, tag string, t awsconfig.Type, why string) {
	if name := nameOf(rule, tag, t.Kind); r.gaps[name] == "" {
		r.gaps[name] = why
	}
}

// add counts resources. examples are made where there is room for them.
func (r *reader) add(rule Rule, tag string, t awsconfig.Type, count int, examples func() []string) {
	name := nameOf(rule, tag, t.Kind)
	f := r.found[name]
	if f == nil {
		f = &Found{Name: name, Rule: rule, Tag: tag, Type: t, Severity: rule.severity()}
		r.found[name] = f
	}
	f.Count += count
	if len(f.Examples) < maxExamples {
		f.Examples = append(f.Examples, examples()...)
		f.Examples = f.Examples[:min(len(f.Examples), maxExamples)]
	}
}

// unencrypted finds resources that are not encrypted.
func (r *reader) unencrypted(ctx context.Context, t awsconfig.Type) error {
	if t.Encrypted == "" {
		return nil
	}
	groups, more, err := r.groups(ctx, t, t.Encrypted)
	if err != nil || more {
		r.gap(Unencrypted, "", t, whyNot(err))
		return err
	}
	for value, n := range groups {
		if strings.EqualFold(value, "false") {
			r.add(Unencrypted, "", t, n, func() []string { return r.first(ctx, t, t.Encrypted+" = false", "") })
		}
	}
	return nil
}

func whyNot(err error) string {
	if err != nil {
		return err.Error()
	}
	return "there are more than is looked at"
}

// groups counts the resources of a type by the value of a property.
func (r *reader) groups(ctx context.Context, t awsconfig.Type, property string) (groups map[string]int, more bool, err error) {
	groups = map[string]int{}
	more, err = awsconfig.Each(ctx, r.api, fmt.Sprintf("SELECT %s, COUNT(*) WHERE resourceType = %s GROUP BY %s", property, awsconfig.Quote(t.Name), property), mostGroups,
		func(row json.RawMessage) error {
			var count struct {
				N float64 `json:"COUNT(*)"`
			}
			if err := json.Unmarshal(row, &count); err != nil {
				return fmt.Errorf("read a row of AWS Config: %w", err)
			}
			values, err := valuesAt(row, property)
			for _, value := range values {
				groups[value] += int(count.N)
			}
			return err
		})
	return groups, more, err
}

// first names the first resources that a condition holds for, with what is wrong with them.
// They are examples: where AWS Config does not answer, there are none.
func (r *reader) first(ctx context.Context, t awsconfig.Type, condition, wrong string) (names []string) {
	rows, _, err := awsconfig.Select(ctx, r.api, fmt.Sprintf("SELECT resourceId, resourceName WHERE resourceType = %s AND %s", awsconfig.Quote(t.Name), condition), 1)
	if err != nil {
		return nil
	}
	for _, row := range rows[:min(len(rows), maxExamples)] {
		names = append(names, resource(t, row)+wrong)
	}
	return names
}

// resource names a resource by its id, and by its name where that is another.
func resource(t awsconfig.Type, row json.RawMessage) string {
	var of struct {
		ID   string `json:"resourceId"`
		Name string `json:"resourceName"`
	}
	if json.Unmarshal(row, &of) != nil {
		return t.Title
	}
	if of.Name != "" && of.Name != of.ID {
		return fmt.Sprintf("%s %s (%s)", t.Title, of.ID, of.Name)
	}
	return t.Title + " " + of.ID
}

// underKeys finds resources under keys that they should not be under.
func (r *reader) underKeys(ctx context.Context, t awsconfig.Type) error {
	for _, property := range t.Keys {
		groups, more, err := r.groups(ctx, t, property)
		if err != nil || more {
			r.gap(Unusable, "", t, whyNot(err))
			r.gap(Foreign, "", t, whyNot(err))
		}
		if err != nil {
			return err
		}
		named := map[Rule]int{}
		for _, key := range slices.Sorted(maps.Keys(groups)) {
			u := r.use(ctx, key)
			switch {
			case u.unknown != "":
				r.gap(Unusable, "", t, u.unknown)
			case u.rule != "":
				r.add(u.rule, "", t, groups[key], func() []string {
					if named[u.rule]++; named[u.rule] > mostKeys {
						return nil
					}
					return r.first(ctx, t, property+" = "+awsconfig.Quote(key), " under "+key+", "+u.why)
				})
			}
		}
	}
	return nil
}

// use is what a key that storage is under says about that.
type use struct {
	// arn is that of a key of the account that its owner manages, "" for another one.
	arn string
	// rule is what is wrong with it, "" for nothing, and why says it in words.
	rule Rule
	why  string
	// unknown is why it is not known whether it can be used, "" where it is.
	unknown string
}

// use judges a key by the name that a resource has of it.
func (r *reader) use(ctx context.Context, name string) use {
	u, ok := r.known[name]
	if !ok {
		var key inventory.Key
		var err error
		if u, ok = r.rules.byName(name); !ok {
			key, err = r.keys.Key(ctx, name)
			u = byKey(key, err)
		}
		r.known[name] = u
	}
	return u
}

// otherTags finds resources with other tags than their key. AWS Config shows all resources
// with these tags, page by page.
func (r *reader) otherTags(ctx context.Context, t awsconfig.Type) error {
	if len(r.rules.Tags) == 0 {
		return nil
	}
	quoted := make([]string, len(r.rules.Tags))
	for i, tag := range r.rules.Tags {
		quoted[i] = awsconfig.Quote(tag)
	}
	expression := fmt.Sprintf("SELECT resourceId, resourceName, tags, %s WHERE resourceType = %s AND tags.key IN (%s)", strings.Join(t.Keys, ", "), awsconfig.Quote(t.Name), strings.Join(quoted, ", "))
	more, err := awsconfig.Each(ctx, r.api, expression, mostPages, func(row json.RawMessage) error { return r.compareTags(ctx, t, row) })
	if err != nil || more {
		for _, tag := range r.rules.Tags {
			r.gap(OtherTag, tag, t, whyNot(err))
		}
	}
	return err
}

// compareTags compares the tags of a resource with those of the keys that it is under.
func (r *reader) compareTags(ctx context.Context, t awsconfig.Type, row json.RawMessage) error {
	var of struct {
		Tags []struct {
			Key   string `json:"key"`
			Value string `json:"value"`
		} `json:"tags"`
	}
	if err := json.Unmarshal(row, &of); err != nil {
		return fmt.Errorf("read a row of AWS Config: %w", err)
	}
	tags := map[string]string{}
	for _, tag := range of.Tags {
		tags[tag.Key] = tag.Value
	}
	told := map[string]bool{}
	for _, property := range t.Keys {
		names, err := valuesAt(row, property)
		if err != nil {
			return err
		}
		for _, name := range names {
			u := r.use(ctx, name)
			if u.arn == "" {
				continue
			}
			key := r.tagsOf(ctx, u.arn)
			for _, tag := range r.rules.Tags {
				if key.err != nil {
					r.gap(OtherTag, tag, t, key.err.Error())
					continue
				}
				is, has := tags[tag]
				want, wants := key.values[tag]
				if !has || !wants || is == want || told[tag] {
					continue
				}
				told[tag] = true
				r.add(OtherTag, tag, t, 1, func() []string {
					return []string{fmt.Sprintf("%s has %s=%s, and its key %s has %s", resource(t, row), tag, is, u.arn, want)}
				})
			}
		}
	}
	return nil
}

// tagsOf reads the tags of a key that matter, once.
func (r *reader) tagsOf(ctx context.Context, keyARN string) tagged {
	known, ok := r.tags[keyARN]
	if !ok {
		all, err := r.keys.Tags(ctx, keyARN)
		known = tagged{err: err, values: map[string]string{}}
		for _, tag := range r.rules.Tags {
			if value, has := all[tag]; has {
				known.values[tag] = value
			}
		}
		r.tags[keyARN] = known
	}
	return known
}
