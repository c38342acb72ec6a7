package handlers

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/reencrypt"
	"github.com/cmkeeper/cmkeeper/retire"
)

// Scans knows what re-encryptions have found in buckets; *reencrypt.Engine does.
type Scans interface {
	Jobs(ctx context.Context, ended bool) ([]reencrypt.Summary, error)
	Report(ctx context.Context, id string) (reencrypt.Summary, error)
}

// factsTimeout bounds how long an alarm waits for what it can do without.
const factsTimeout = 10 * time.Second

// addBlast adds what hangs on a key that was read at the given time, as far as
// it can be found out now. Each fact says where it is from and when that was
// read; what cannot be found out is said to be unknown, never left out.
func (r *Router) addBlast(ctx context.Context, a *alert.Alert, key inventory.Key, at time.Time) {
	ctx, cancel := context.WithTimeout(ctx, factsTimeout)
	defer cancel()
	looks := []func(context.Context, inventory.Key) alert.Fact{
		r.aliasesOf, r.bucketsOf, r.scansOf, r.grantsOn, r.lastUseOf, r.callersOf,
	}
	found := make([]alert.Fact, len(looks))
	var wg sync.WaitGroup
	for i, look := range looks {
		wg.Go(func() { found[i] = look(ctx, key) })
	}
	wg.Wait()
	a.Facts = append(append(a.Facts, found...), relatedKeys(key, at), alert.Fact{Name: "not looked at", Values: []string{retire.NotLookedAt}})
}

// lookedAt is what a look came to: that nothing was found is said only where
// all of it could be read.
func lookedAt(name, source string, at time.Time, values []string, err error) alert.Fact {
	switch {
	case err != nil && len(values) > 0:
		values = append(values, fmt.Sprintf("and unknown how many more: %v", err))
	case err != nil:
		values = []string{fmt.Sprintf("unknown: %v", err)}
	case len(values) == 0:
		values = []string{"none"}
	}
	return alert.Fact{Name: name, Source: source + ", " + timeText(at), Values: values}
}

func (r *Router) aliasesOf(ctx context.Context, key inventory.Key) alert.Fact {
	aliases, err := r.facts.AliasesOf(ctx, key.ARN)
	return lookedAt("aliases", "KMS ListAliases", now(), aliasNames(aliases), err)
}

func (r *Router) bucketsOf(ctx context.Context, key inventory.Key) alert.Fact {
	var names []string
	buckets, err := r.facts.Buckets(ctx)
	for _, b := range buckets {
		if b.DefaultKeyARN == key.ARN {
			names = append(names, b.Name)
		}
	}
	return lookedAt("buckets encrypted with it by default", "S3 GetBucketEncryption of this Region's buckets", now(), names, err)
}

// scansOf says what the last re-encryption of each place that names the key
// knows of the objects there.
func (r *Router) scansOf(ctx context.Context, key inventory.Key) alert.Fact {
	found := func(values []string, err error) alert.Fact {
		return lookedAt("objects, by the reports of re-encryptions", "state bucket; no object was read for this alert", now(), values, err)
	}
	if r.scans == nil {
		return found([]string{"unknown: reports are not read here"}, nil)
	}
	jobs, err := r.scans.Jobs(ctx, true)
	var values []string
	seen := map[string]bool{}
	for _, j := range jobs { // the newest first
		place := j.Bucket + "/" + j.Prefix
		if seen[place] || j.To != key.ARN && !slices.Contains(j.From, key.ARN) {
			continue
		}
		seen[place] = true
		if j.State == reencrypt.StateComplete {
			if j, err = r.scans.Report(ctx, j.Job); err != nil {
				break
			}
		}
		values = append(values, scanText(j, key.ARN))
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
	text += fmt.Sprintf(" since %s and moved %d", timeText(j.Finished), j.Moved)
	if left := j.Refused + j.Failed; where == "off" && left > 0 {
		text += fmt.Sprintf("; %d were left on their old keys", left)
	}
	return text
}

// grantsOn says who holds a grant for what. A service may hold thousands alike.
func (r *Router) grantsOn(ctx context.Context, key inventory.Key) alert.Fact {
	grants, err := r.facts.Grants(ctx, key.ARN)
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
	return lookedAt("grants", "KMS ListGrants", now(), values, err)
}

func (r *Router) lastUseOf(ctx context.Context, key inventory.Key) alert.Fact {
	usage, err := r.facts.LastUsage(ctx, key.ARN)
	var values []string
	if err == nil {
		values = []string{usage.String(), retire.LastUseWarning}
	}
	return lookedAt("last use", "KMS GetKeyLastUsage, up to an hour late", now(), values, err)
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
	return lookedAt("multi-Region keys of the same material", "KMS DescribeKey", at, values, nil)
}
