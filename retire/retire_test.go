package retire

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/dependents"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/reencrypt"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const key = "arn:aws:kms:us-east-1:111122223333:key/old"

func TestJudge(t *testing.T) {
	bucket := func(change func(*bucketFacts)) facts {
		b := bucketFacts{Bucket: inventory.Bucket{Name: "data"}, survey: &reencrypt.Survey{Listed: 3}}
		change(&b)
		return facts{buckets: []bucketFacts{b}}
	}
	survey := func(groups ...reencrypt.Group) facts {
		return bucket(func(b *bucketFacts) { b.survey.Groups = groups })
	}
	resources := func(change func(*dependents.Result)) facts {
		r := dependents.Result{Grants: dependents.Source{ID: dependents.SourceGrants}, Trail: dependents.Source{ID: dependents.SourceTrail}, Config: dependents.Source{ID: dependents.SourceConfig}}
		change(&r)
		return facts{resources: &r}
	}
	found := func(kind, id string) []dependents.Dependent {
		return []dependents.Dependent{{Resource: dependents.Resource{Kind: kind, ID: id}}}
	}
	for name, tt := range map[string]struct {
		facts         facts
		accepted      []string
		ties, unknown []string
	}{
		"nothing":               {facts: bucket(func(*bucketFacts) {})},
		"an alias":              {facts: facts{aliases: []inventory.Alias{{Name: "alias/app"}}}, ties: []string{"alias:alias/app"}},
		"a grant":               {facts: facts{grants: []inventory.Grant{{ID: "g1", Grantee: "arn:x"}}}, ties: []string{"grant:g1"}},
		"managed by AWS":        {facts: facts{key: inventory.Key{ARN: key, Manager: "AWS"}}, ties: []string{"key"}},
		"a primary":             {facts: facts{key: inventory.Key{ARN: key, MultiRegion: "PRIMARY", Replicas: []string{"arn:replica"}}}, ties: []string{"replica:arn:replica"}},
		"a replica":             {facts: facts{key: inventory.Key{ARN: key, MultiRegion: "REPLICA", Replicas: []string{key, "arn:replica"}}}},
		"a default":             {facts: bucket(func(b *bucketFacts) { b.DefaultKey, b.DefaultKeyARN = key, key }), ties: []string{"bucket-default:data"}},
		"a default of no key":   {facts: bucket(func(b *bucketFacts) { b.DefaultKey = "alias/gone" }), unknown: []string{"bucket-default:data"}},
		"replicas":              {facts: bucket(func(b *bucketFacts) { b.replicates = true }), ties: []string{"replication:data"}},
		"uploads":               {facts: bucket(func(b *bucketFacts) { b.uploads = 2 }), unknown: []string{"uploads:data"}},
		"uploads, accepted":     {facts: bucket(func(b *bucketFacts) { b.uploads = 2 }), accepted: []string{"uploads:data"}},
		"ties are not accepted": {facts: facts{aliases: []inventory.Alias{{Name: "alias/app"}}}, accepted: []string{"alias:alias/app"}, ties: []string{"alias:alias/app"}},
		"objects":               {facts: survey(reencrypt.Group{Key: key, Versions: 2, Bytes: 5}, reencrypt.Group{Key: "arn:other", Versions: 1}), ties: []string{"objects:data"}},
		"objects of no key":     {facts: survey(reencrypt.Group{Reason: reencrypt.ReasonUnreadableHead, Versions: 2}), unknown: []string{"unreadable:data"}},
		"by report":             {facts: bucket(func(b *bucketFacts) { b.survey, b.job = nil, "j1" })},
		"not scanned":           {facts: bucket(func(b *bucketFacts) { b.survey, b.unscanned = nil, "denied" }), unknown: []string{"objects:data"}},
		"unread":                {facts: facts{unread: []Tie{{ID: "last-use"}}}, unknown: []string{"last-use"}},
		"a volume":              {facts: resources(func(r *dependents.Result) { r.Config.Found = found("ebs-volume", "vol-1") }), ties: []string{"dependent:ebs-volume:vol-1"}},
		"very many volumes": {facts: resources(func(r *dependents.Result) {
			r.Config.Found, r.Config.More = found("ebs-volume", "vol-1"), map[string]int{"ebs-volume": 9, "sqs-queue": 1}
		}), ties: []string{"dependent:ebs-volume:vol-1", "dependents:ebs-volume", "dependents:sqs-queue"}},
		"a volume in a grant":  {facts: resources(func(r *dependents.Result) { r.Grants.Found = found("ebs-volume", "vol-1") }), ties: []string{"dependent:ebs-volume:vol-1"}},
		"a service in a grant": {facts: resources(func(r *dependents.Result) { r.Grants.Found = found(dependents.KindService, "rds.amazonaws.com") })},
		"a use":                {facts: resources(func(r *dependents.Result) { r.Trail.Found = found("secret", "s") }), unknown: []string{"dependent:secret:s"}},
		"a use, accepted":      {facts: resources(func(r *dependents.Result) { r.Trail.Found = found("secret", "s") }), accepted: []string{"dependent:secret:s"}},
		"one volume everywhere": {facts: resources(func(r *dependents.Result) {
			r.Config.Found, r.Grants.Found, r.Trail.Found = found("ebs-volume", "vol-1"), found("ebs-volume", "vol-1"), found("ebs-volume", "vol-1")
		}), ties: []string{"dependent:ebs-volume:vol-1"}},
		"a use of a bucket that is scanned": {facts: func() facts {
			f := resources(func(r *dependents.Result) {
				r.Trail.Found = append(found("s3-object", "data/a"), found("s3-bucket", "data")...)
			})
			f.buckets = bucket(func(*bucketFacts) {}).buckets
			return f
		}()},
		"a use of another bucket": {facts: resources(func(r *dependents.Result) { r.Trail.Found = found("s3-bucket", "theirs") }), unknown: []string{"dependent:s3-bucket:theirs"}},
		"no recorder":             {facts: resources(func(r *dependents.Result) { r.Config.Unknown = []dependents.Unknown{{ID: "dependents:config"}} }), unknown: []string{"dependents:config"}},
		"no recorder, accepted":   {facts: resources(func(r *dependents.Result) { r.Config.Unknown = []dependents.Unknown{{ID: "dependents:config"}} }), accepted: []string{"dependents:config"}},
		"no CloudTrail":           {facts: resources(func(r *dependents.Result) { r.Trail.Unknown = []dependents.Unknown{{ID: "dependents:cloudtrail"}} }), unknown: []string{"dependents:cloudtrail"}},
		"used yesterday":          {facts: facts{usage: &inventory.Usage{Operation: "Decrypt", At: noon.Add(-24 * time.Hour)}}, ties: []string{"last-use"}},
		"used long ago":           {facts: facts{usage: &inventory.Usage{Operation: "Decrypt", At: noon.Add(-8 * 24 * time.Hour)}}},
		"never used":              {facts: facts{usage: &inventory.Usage{Since: noon, Created: noon}}},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.facts.key.ARN == "" {
				tt.facts.key = inventory.Key{ARN: key, Manager: "CUSTOMER", State: "Enabled"}
			}
			r := judge(tt.facts, 7*24*time.Hour, tt.accepted, noon)
			ids := func(ties []Tie) (all []string) {
				for _, tie := range ties {
					all = append(all, tie.ID)
				}
				return all
			}
			if diff := cmp.Diff([][]string{tt.ties, tt.unknown}, [][]string{ids(r.Ties), ids(r.Unknown)}); diff != "" {
				t.Error(diff)
			}
			if r.Free != (len(tt.ties)+len(tt.unknown) == 0) {
				t.Errorf("free is %t", r.Free)
			}
		})
	}
}

func TestApprovalCovers(t *testing.T) {
	a := Approval{Key: key, At: noon, Days: 7}
	for days, want := range map[int]bool{0: false, 5: false, 6: true, 7: true, 8: true, 9: true, 10: false, 37: false} {
		date := noon.AddDate(0, 0, days)
		if got := a.Covers(&date); got != want {
			t.Errorf("a deletion after %d days: %t", days, got)
		}
	}
	if a.Covers(nil) {
		t.Error("a deletion without a date is covered")
	}
}

func TestProves(t *testing.T) {
	whole := reencrypt.Status{Versions: reencrypt.VersionsAll}
	for name, tt := range map[string]struct {
		status reencrypt.Status
		counts reencrypt.Counts
		want   bool
	}{
		"all moved":     {whole, reencrypt.Counts{Moved: 5}, true},
		"one refused":   {whole, reencrypt.Counts{Moved: 4, Refused: 1}, false},
		"one failed":    {whole, reencrypt.Counts{Moved: 4, Failed: 1}, false},
		"current only":  {reencrypt.Status{Versions: reencrypt.VersionsCurrent}, reencrypt.Counts{Moved: 5}, false},
		"only a report": {reencrypt.Status{Versions: reencrypt.VersionsAll, RetryOf: "j1"}, reencrypt.Counts{Moved: 5}, false},
	} {
		if got := proves(tt.status, reencrypt.Summary{Counts: tt.counts}); got != tt.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
