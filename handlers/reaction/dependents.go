package reaction

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/dependents"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/reencrypt"
	"github.com/cmkeeper/cmkeeper/retire"
)

// Dependents finds out what depends on the event's key, as far as that can be done
// now. Each fact says where it is from and when that was read; what cannot be found
// out is said to be unknown, never left out.
func (c *Case) Dependents(ctx context.Context, key inventory.Key) []alert.Fact {
	lookups := []func(context.Context) alert.Fact{
		c.aliasFact, c.bucketFact, c.scanFact, c.grantFact, c.usageFact, c.callerFact,
	}
	found := make([]alert.Fact, len(lookups))
	var resources []alert.Fact
	var wg sync.WaitGroup
	for i, look := range lookups {
		wg.Go(func() { found[i] = look(ctx) })
	}
	wg.Go(func() { resources = c.resourceFacts(ctx, key) })
	wg.Wait()
	return append(append(found, resources...), relatedKeys(key, c.At), alert.Fact{Name: "not looked at", Values: []string{dependents.NotLookedAt()}})
}

// resourceFacts say which resources need the key. What grants and uses name is a fact only if
// they name something: what is unknown of grants and uses is said with these.
func (c *Case) resourceFacts(ctx context.Context, key inventory.Key) []alert.Fact {
	ctx, cancel := context.WithTimeout(ctx, resourcesTimeout)
	defer cancel()
	aliases, grants := dependents.Read[[]inventory.Alias]{}, dependents.Read[[]inventory.Grant]{}
	aliases.Value, aliases.Err = c.KeyAliases(ctx)
	grants.Value, grants.Err = c.Grants(ctx)
	aliases.At, grants.At = c.aliases.readAt(), c.grants.readAt()
	if key.ARN == "" { // it could not be read
		key.ARN = c.Event.KeyARN
	}
	key.ID = arn.KeyID(key.ARN)
	r := dependents.Reader{Config: c.Resources, Uses: func(ctx context.Context, _ string) ([]dependents.Event, error) { return c.Uses(ctx) }}.Of(ctx, key, aliases, grants)
	facts := []alert.Fact{LookedAt("resources encrypted with it", r.Config.Name, r.Config.At, r.Config.Lines(), nil)}
	if s := r.Grants; len(s.Found) > 0 {
		facts = append(facts, LookedAt("resources that grants name", s.Name, s.At, s.Lines(), nil))
	}
	if s := r.Trail; len(s.Found) > 0 {
		facts = append(facts, LookedAt(usedFor, s.Name, s.At, s.Lines(), nil))
	}
	return facts
}

// UsedFor says which resources the last uses of the event's key named, the refused ones
// included.
func (c *Case) UsedFor(ctx context.Context) alert.Fact {
	uses := dependents.Read[[]dependents.Event]{}
	uses.Value, uses.Err = c.Uses(ctx)
	uses.At = c.uses.readAt()
	s := dependents.OfUses(c.Event.KeyARN, uses)
	return LookedAt(usedFor, s.Name, s.At, s.Lines(), nil)
}

// usedFor names the fact of what recent uses name.
const usedFor = "resources that recent uses name"

// LookedAt is what a look came to: that nothing was found is said only where all of it
// could be read.
func LookedAt(name, source string, at time.Time, values []string, err error) alert.Fact {
	switch {
	case err != nil && len(values) > 0:
		values = append(values, fmt.Sprintf("and unknown how many more: %v", err))
	case err != nil:
		values = []string{fmt.Sprintf("unknown: %v", err)}
	case len(values) == 0:
		values = []string{"none"}
	}
	return alert.Fact{Name: name, Source: source + ", " + TimeText(at), Values: values}
}

func (c *Case) aliasFact(ctx context.Context) alert.Fact {
	aliases, err := c.KeyAliases(ctx)
	return LookedAt("aliases", "KMS ListAliases", c.aliases.readAt(), AliasNames(aliases), err)
}

func (c *Case) bucketFact(ctx context.Context) alert.Fact {
	var names []string
	buckets, err := c.Buckets(ctx)
	for _, b := range buckets {
		switch is, known := b.DefaultIs(c.Event.KeyARN); {
		case is:
			names = append(names, b.Name)
		case !known:
			err = errors.Join(err, fmt.Errorf("bucket %s names %s, and which key that is may not be looked up", b.Name, b.DefaultKey))
		}
	}
	return LookedAt("buckets encrypted with it by default", "S3 GetBucketEncryption of this Region's buckets", c.account.buckets.readAt(), names, err)
}

// BucketsReadAt is when Buckets were read.
func (c *Case) BucketsReadAt() time.Time { return c.account.buckets.readAt() }

// scanFact says what the last re-encryption of each place that names the key knows of
// the objects there.
func (c *Case) scanFact(ctx context.Context) alert.Fact {
	key, at := c.Event.KeyARN, time.Now()
	found := func(values []string, err error) alert.Fact {
		return LookedAt("objects, by the reports of re-encryptions", "state bucket; no object was read for this alert", at, values, err)
	}
	if c.Scans == nil {
		return found([]string{"unknown: reports are not read here"}, nil)
	}
	jobs, unread := c.Scans.Jobs(ctx, true)
	var err error
	var values []string
	seen := map[string]bool{}
	for _, j := range jobs { // the newest first
		place := j.Bucket + "/" + j.Prefix
		if seen[place] || j.To != key && !slices.Contains(j.From, key) {
			continue
		}
		seen[place] = true
		if j.State == reencrypt.StateComplete {
			if j, err = c.Scans.Report(ctx, j.Job); err != nil {
				break
			}
		}
		values = append(values, scanText(j, key))
	}
	if err == nil {
		err = unread
	}
	if err == nil && len(values) == 0 {
		values = []string{"unknown: no report names the key"}
	}
	return found(values, err)
}

// scanText says what a job knows of the objects under one of its keys.
func scanText(j reencrypt.Summary, keyARN string) string {
	where := "off"
	if j.To == keyARN {
		where = "under"
	}
	text := fmt.Sprintf("%s/%s: job %s, which moves object versions %s this key, is %s", j.Bucket, j.Prefix, j.Job, where, j.State)
	if j.State != reencrypt.StateComplete {
		return text
	}
	text += fmt.Sprintf(" since %s and moved %d", TimeText(j.Finished), j.Moved)
	if left := j.Refused + j.Failed; where == "off" && left > 0 {
		text += fmt.Sprintf("; %d were left on their old keys", left)
	}
	return text
}

// grantFact says who holds a grant for what. A service may hold thousands alike.
func (c *Case) grantFact(ctx context.Context) alert.Fact {
	grants, err := c.Grants(ctx)
	count := map[string]int{}
	var values []string
	for _, g := range grants {
		text := g.Grantee + g.GranteeService + " may " + strings.Join(g.Operations, ", ")
		if count[text]++; count[text] == 1 {
			values = append(values, text)
		}
	}
	for i, text := range values {
		if n := count[text]; n > 1 {
			values[i] += fmt.Sprintf(" (%d grants)", n)
		}
	}
	return LookedAt("grants", "KMS ListGrants", c.grants.readAt(), values, err)
}

func (c *Case) usageFact(ctx context.Context) alert.Fact {
	usage, err := c.LastUsage(ctx)
	var values []string
	if err == nil {
		values = []string{usage.String(), retire.LastUseWarning}
	}
	return LookedAt("last use", "KMS GetKeyLastUsage, up to an hour late", c.usage.readAt(), values, err)
}

// relatedKeys names the keys of other Regions that share the key's material.
func relatedKeys(key inventory.Key, at time.Time) alert.Fact {
	var values []string
	for _, arn := range append([]string{key.PrimaryARN}, key.Replicas...) {
		what := "is a replica"
		if arn == key.PrimaryARN {
			what = "is the primary"
		}
		if arn != "" && arn != key.ARN {
			values = append(values, fmt.Sprintf("%s %s; cmkeeper does not touch it, and its state is not known here", arn, what))
		}
	}
	return LookedAt("multi-Region keys of the same material", "KMS DescribeKey", at, values, nil)
}

const (
	// callersTimeout bounds the wait for CloudTrail, resourcesTimeout that for AWS Config.
	callersTimeout   = 2 * time.Second
	resourcesTimeout = 5 * time.Second
	maxCallers       = 12
)

// callerFact says who called for the key of late. The events of KMS name the key's ARN
// as their resource, uses of it included.
func (c *Case) callerFact(ctx context.Context) alert.Fact {
	uses, err := c.Uses(ctx)
	source := fmt.Sprintf("the last %d events about the key in CloudTrail, some minutes late", dependents.UsesLimit)
	return LookedAt("recent callers", source, c.uses.readAt(), callers(uses, c.Config.Identity), err)
}

// Uses are the last events about the event's key in CloudTrail, the newest first. CloudTrail
// is asked once, whatever comes of it, and only while nothing else waits for it.
func (c *Case) Uses(ctx context.Context) ([]dependents.Event, error) {
	return c.uses.get(ctx, c.Event.KeyARN, c.lookUpUses)
}

func (c *Case) lookUpUses(ctx context.Context, keyARN string) ([]dependents.Event, error) {
	if c.Trail == nil {
		return nil, errors.New("CloudTrail is not asked here")
	}
	ctx, cancel := context.WithTimeout(ctx, callersTimeout)
	defer cancel()
	if c.Records != nil && c.Records.Busy() {
		return nil, errors.New("CloudTrail is being asked to confirm events; ask it with the command below")
	}
	if err := c.lookups.Wait(ctx); err != nil {
		return nil, fmt.Errorf("wait for a lookup in CloudTrail: %w", err)
	}
	return dependents.LookUp(ctx, c.Trail, keyARN)
}

// callers sums up events, the newest first, by who called what. Our own reads are only
// counted: they would bury the others.
func callers(found []dependents.Event, us Identity) []string {
	type call struct{ who, operation string }
	type sum struct {
		call
		n       int
		last    time.Time
		refused []string
	}
	var sums []*sum
	ours := 0
	for _, f := range found {
		c, refused := call{f.Username, f.EventName}, ""
		if e, err := events.Parse([]byte(f.CloudTrailEvent)); err == nil {
			if us.Is(e.Actor) {
				ours++
				continue
			}
			c, refused = call{e.Actor.String(), e.Name}, e.ErrorCode
		}
		i := slices.IndexFunc(sums, func(s *sum) bool { return s.call == c })
		if i < 0 {
			i = len(sums)
			sums = append(sums, &sum{call: c, last: time.Unix(int64(f.EventTime), 0)})
		}
		sums[i].n++
		if refused != "" && !slices.Contains(sums[i].refused, refused) {
			sums[i].refused = append(sums[i].refused, refused)
		}
	}
	var values []string
	for _, s := range sums[:min(len(sums), maxCallers)] {
		times := "once, at"
		if s.n > 1 {
			times = fmt.Sprintf("%d times, last at", s.n)
		}
		text := fmt.Sprintf("%s: %s %s %s", s.who, s.operation, times, TimeText(s.last))
		if len(s.refused) > 0 {
			text += "; refused with " + strings.Join(s.refused, ", ")
		}
		values = append(values, text)
	}
	if more := len(sums) - maxCallers; more > 0 {
		values = append(values, fmt.Sprintf("and %d more", more))
	}
	if ours > 0 {
		values = append(values, fmt.Sprintf("%d of these events are cmkeeper's own", ours))
	}
	return values
}
