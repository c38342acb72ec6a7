// Package dependents finds out what needs a KMS key beside the objects in S3: from the
// key's grants, from the encryption contexts of its recent uses in CloudTrail, and from AWS
// Config.
//
// Each source says when it was asked, and what it does not know and why. So nothing is said
// to be there or not to be there that nobody has looked at.
package dependents

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/aws/smithy-go"

	"github.com/cmkeeper/cmkeeper/awsconfig"
	"github.com/cmkeeper/cmkeeper/inventory"
)

// Dependent is a resource that needs a key, or that a caller said to need it.
type Dependent struct {
	Resource
	// Name is the resource's name where that is not its id; else "".
	Name string
	// Detail is what shows that it needs the key: a grant or a use; "" of AWS Config,
	// which has the key as the resource's property.
	Detail string
	// At is when that was so: when AWS Config recorded the resource, when the key was used,
	// or when the grants were listed.
	At time.Time
}

// Source is what one source knows.
type Source struct {
	// ID is SourceGrants, SourceTrail or SourceConfig; Name is the same for people.
	ID, Name string
	// At is when it was asked.
	At time.Time
	// Found are the dependents, each once: all, or the first of very many.
	Found []Dependent
	// More is how many there are beside Found, by kind.
	More map[string]int
	// Unknown is what the source was not asked, does not know, or did not answer. Without
	// it, Found and More are all that the source can know.
	Unknown []Unknown

	seen map[string]bool // what is in Found, by kind with id and with ARN
}

// Unknown is something that a source does not know.
type Unknown struct {
	// ID names it, for people who accept it: "dependents:" and the source, or the type of
	// AWS Config that it does not record ("dependents:AWS::SQS::Queue").
	ID string
	// Of is what it does not know of ("SQS queues"); "" means of anything.
	Of string
	// Why is the reason, and Fix what to do about it, if there is something.
	Why, Fix string
}

// The sources.
const (
	SourceGrants = "grants"
	SourceTrail  = "cloudtrail"
	SourceConfig = "config"
)

// Result is what needs a key, by source.
type Result struct {
	Grants, Trail, Config Source
}

// Sources are the sources in the order in which they are told.
func (r Result) Sources() []Source { return []Source{r.Config, r.Grants, r.Trail} }

// Read is something that was read, or why it was not.
type Read[T any] struct {
	Value T
	At    time.Time
	Err   error
}

// Reader asks the sources. A source that is nil is not asked, which its answer says.
type Reader struct {
	Config awsconfig.API
	// Uses returns the last events about a key in CloudTrail; see [LookUp].
	Uses func(ctx context.Context, keyARN string) ([]Event, error)
}

// Of finds out what needs a key whose aliases and grants were read. It sends a handful of
// requests and takes as long as ctx allows; what could not be read in that time is unknown.
func (r Reader) Of(ctx context.Context, key inventory.Key, aliases Read[[]inventory.Alias], grants Read[[]inventory.Grant]) Result {
	result := Result{Grants: OfGrants(grants)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		uses := Read[[]Event]{At: time.Now(), Err: errors.New("CloudTrail is not asked here")}
		if r.Uses != nil {
			uses.Value, uses.Err = r.Uses(ctx, key.ARN)
		}
		result.Trail = OfUses(key.ARN, uses)
	}()
	result.Config = ofConfig(ctx, r.Config, key, aliases)
	<-done
	return result
}

// OfGrants returns what the constraints of grants name, and the services that grants
// without such a constraint are for. Grants to the account's own principals that name no
// resource name no dependent.
func OfGrants(grants Read[[]inventory.Grant]) Source {
	s := Source{ID: SourceGrants, Name: "the key's grants", At: grants.At}
	if grants.Err != nil {
		s.unknown("", grants.Err, "kms:ListGrants")
		return s
	}
	for _, g := range grants.Value {
		grantee := g.Grantee + g.GranteeService
		d := Dependent{At: grants.At, Detail: "grant " + g.ID + ": " + grantee + " may " + strings.Join(g.Operations, ", ")}
		var ok bool
		if d.Resource, ok = Decode(g.Context); !ok && g.SourceARN != "" {
			d.Resource, ok = named(KindOther, g.SourceARN), true
		}
		if !ok && strings.HasSuffix(grantee, ".amazonaws.com") {
			d.Resource, ok = Resource{Kind: KindService, ID: grantee}, true
		}
		if ok {
			s.add(d)
		}
	}
	return s
}

// add adds a dependent that is not there yet, as far as its id and its ARN show.
func (s *Source) add(d Dependent) {
	id, arn := d.Kind+" "+d.ID, d.Kind+" "+d.ARN
	if s.seen[id] || d.ARN != "" && s.seen[arn] {
		return
	}
	if s.seen == nil {
		s.seen = map[string]bool{}
	}
	s.seen[id], s.seen[arn] = true, true
	s.Found = append(s.Found, d)
}

// unknown notes that an error has kept the source from knowing of something.
func (s *Source) unknown(of string, err error, permission string) {
	u := Unknown{ID: "dependents:" + s.ID, Of: of, Why: err.Error()}
	if denied(err) {
		u.Why, u.Fix = "the permission is missing: "+u.Why, "Grant "+permission+"."
	}
	s.Unknown = append(s.Unknown, u)
}

func denied(err error) bool {
	api, ok := errors.AsType[smithy.APIError](err)
	return errors.Is(err, inventory.ErrAccessDenied) || ok && strings.HasPrefix(api.ErrorCode(), "AccessDenied")
}

// All returns the dependents of all sources, each once, as the first source in the order of
// Sources has it.
func (r Result) All() []Dependent {
	var all Source
	for _, s := range r.Sources() {
		for _, d := range s.Found {
			all.add(d)
		}
	}
	return all.Found
}

// shown is how many of a kind are named in a line.
const shown = 5

// Lines are what the source knows as text: a line for each kind, with the number and the
// first few, and a line for each reason why something is unknown. No line means that the
// source was asked and has nothing. Names are as others chose them; escape them.
func (s Source) Lines() []string {
	byKind, kinds := map[string][]Dependent{}, []string{}
	for _, d := range s.Found {
		if byKind[d.Kind] == nil {
			kinds = append(kinds, d.Kind)
		}
		byKind[d.Kind] = append(byKind[d.Kind], d)
	}
	for _, kind := range slices.Sorted(maps.Keys(s.More)) {
		if byKind[kind] == nil {
			kinds = append(kinds, kind)
		}
	}
	var lines []string
	for _, kind := range kinds {
		var names []string
		for _, d := range byKind[kind][:min(shown, len(byKind[kind]))] {
			names = append(names, d.text(s.ID))
		}
		n := len(byKind[kind]) + s.More[kind]
		if left := n - len(names); left > 0 && len(names) > 0 {
			names = append(names, fmt.Sprintf("and %d more", left))
		}
		line := Count(n, kind)
		if len(names) > 0 {
			line += ": " + strings.Join(names, "; ")
		}
		lines = append(lines, line)
	}
	return append(lines, s.unknownLines()...)
}

// text names a dependent, with what shows that it needs the key.
func (d Dependent) text(source string) string {
	text := d.ID
	if d.Name != "" {
		text = d.Name + " (" + d.ID + ")"
	}
	if d.Detail != "" && source != SourceConfig {
		text += ", " + d.Detail
	}
	return text
}

// unknownLines are the reasons, each with all that it is the reason for.
func (s Source) unknownLines() []string {
	var reasons []string
	of := map[string][]string{}
	for _, u := range s.Unknown {
		if !slices.Contains(reasons, u.Why) {
			reasons = append(reasons, u.Why)
		}
		if u.Of != "" {
			of[u.Why] = append(of[u.Why], u.Of)
		}
	}
	var lines []string
	for _, why := range reasons {
		line := "unknown: " + why
		if len(of[why]) > 0 {
			line = "unknown of " + strings.Join(of[why], ", ") + ": " + why
		}
		lines = append(lines, line)
	}
	return lines
}

// titles are those of the kinds that awsconfig.Types do not have.
var titles = map[string]string{KindObject: "S3 object", KindBucket: "S3 bucket", KindService: "AWS service", KindOther: "other resource"}

// Title returns the kind in words ("EBS volume"); a kind without any is its own.
func Title(kind string) string {
	for _, t := range awsconfig.Types {
		if t.Kind == kind {
			return t.Title
		}
	}
	return cmp.Or(titles[kind], kind)
}

// Count returns the number and the kind in words ("3 EBS volumes").
func Count(n int, kind string) string {
	if n == 1 {
		return "1 " + Title(kind)
	}
	return fmt.Sprintf("%d %s", n, several(Title(kind)))
}

// several is the plural of a title.
func several(title string) string {
	if stem, ok := strings.CutSuffix(title, "y"); ok {
		return stem + "ies"
	}
	return title + "s"
}

// NotLookedAt names what no source can know.
func NotLookedAt() string {
	var types []string
	for _, t := range awsconfig.Types {
		if len(t.Keys) == 0 {
			types = append(types, several(t.Title))
		}
	}
	return "other Regions and accounts; " + strings.Join(types, ", ") + " and other types that AWS Config does not find by their key; data that applications encrypted themselves"
}
