package retire

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/smithy-go"
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
		"nothing":        {facts: bucket(func(*bucketFacts) {})},
		"an alias":       {facts: facts{aliases: []inventory.Alias{{Name: "alias/app"}}}, ties: []string{"alias:alias/app"}},
		"a grant":        {facts: facts{grants: []inventory.Grant{{ID: "g1", Grantee: "arn:x"}}}, ties: []string{"grant:g1"}},
		"managed by AWS": {facts: facts{key: inventory.Key{ARN: key, Manager: "AWS"}}, ties: []string{"key"}},
		"a primary":      {facts: facts{key: inventory.Key{ARN: key, MultiRegion: "PRIMARY", Replicas: []string{"arn:replica"}}}, ties: []string{"replica:arn:replica"}},
		"a replica":      {facts: facts{key: inventory.Key{ARN: key, MultiRegion: "REPLICA", Replicas: []string{key, "arn:replica"}}}},
		"a default":      {facts: bucket(func(b *bucketFacts) { b.DefaultKey, b.DefaultKeyARN = key, key }), ties: []string{"bucket-default:data"}},
		"a default of no key": {facts: bucket(func(b *bucketFacts) {
			b.DefaultKey, b.DefaultAlias, b.DefaultKeyGone = "alias/gone", "alias/gone", true
		})},
		"a default, denied":     {facts: bucket(func(b *bucketFacts) { b.DefaultKey, b.DefaultAlias = "alias/app", "alias/app" }), unknown: []string{"bucket-default:data"}},
		"replicas":              {facts: bucket(func(b *bucketFacts) { b.replicates = true }), ties: []string{"replication:data"}},
		"uploads":               {facts: bucket(func(b *bucketFacts) { b.uploads = 2 }), unknown: []string{"uploads:data"}},
		"uploads, accepted":     {facts: bucket(func(b *bucketFacts) { b.uploads = 2 }), accepted: []string{"uploads:data"}},
		"ties are not accepted": {facts: facts{aliases: []inventory.Alias{{Name: "alias/app"}}}, accepted: []string{"alias:alias/app"}, ties: []string{"alias:alias/app"}},
		"objects":               {facts: survey(reencrypt.Group{Key: key, Versions: 2, Bytes: 5}, reencrypt.Group{Key: "arn:other", Versions: 1}), ties: []string{"objects:data"}},
		"objects of no key":     {facts: survey(reencrypt.Group{Reason: reencrypt.ReasonUnreadableHead, Versions: 2}), unknown: []string{"unreadable:data"}},
		"data keys": {facts: survey(
			reencrypt.Group{Key: "arn:other", Envelope: "s3-client-v2", Sealed: true, Versions: 2},
			reencrypt.Group{Key: key, Envelope: "sops", Sealed: true, Reason: reencrypt.ReasonEnvelopeFile, Versions: 1},
			reencrypt.Group{Key: "arn:other", Envelope: "tink", Versions: 1},
		), ties: []string{"objects:data", "envelopes:data:s3-client-v2", "envelopes:data:sops"}},
		"objects that cannot be read": {facts: survey(
			reencrypt.Group{Sealed: true, Unsure: true, Reason: reencrypt.ReasonEnvelopeUnread, Versions: 2},
			reencrypt.Group{Envelope: "sops", Sealed: true, Unsure: true, Reason: reencrypt.ReasonEnvelopeKMS, Versions: 1},
		), unknown: []string{"envelopes-unknown:data"}},
		"objects that cannot be read, accepted": {facts: survey(
			reencrypt.Group{Sealed: true, Unsure: true, Reason: reencrypt.ReasonEnvelopeUnread, Versions: 2},
		), accepted: []string{"envelopes-unknown:data"}},
		"by report":   {facts: bucket(func(b *bucketFacts) { b.survey, b.job = nil, "j1" })},
		"not scanned": {facts: bucket(func(b *bucketFacts) { b.survey, b.unscanned = nil, "denied" }), unknown: []string{"objects:data"}},
		"unread":      {facts: facts{unread: []Tie{{ID: "last-use"}}}, unknown: []string{"last-use"}},
		"a volume":    {facts: resources(func(r *dependents.Result) { r.Config.Found = found("ebs-volume", "vol-1") }), ties: []string{"dependent:ebs-volume:vol-1"}},
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

// TestLastUse: the fleet's own last use is proved by CloudTrail's record and a job, or it
// counts like any other.
func TestLastUse(t *testing.T) {
	const quiet = 7 * 24 * time.Hour
	at := noon.Add(-time.Hour)
	job := reencrypt.Summary{Job: "j1", From: []string{key}, To: "arn:new", By: []string{"role/cmkeeper"}, Started: at.Add(-time.Minute), Finished: at.Add(time.Minute)}
	for name, tt := range map[string]struct {
		user  user
		tie   string // what the tie says; "" for an unknown
		maybe string
	}{
		"nothing known":           {user{why: "CloudTrail does not show the event"}, "not known: CloudTrail does not show the event", ""},
		"somebody":                {user{record: "app/i-1", name: "role/app"}, "names app/i-1.", ""},
		"the fleet with a job":    {user{record: "cmkeeper/t-1", name: "role/cmkeeper", jobs: []reencrypt.Summary{job}}, "", "That was cmkeeper itself: CloudTrail's record names cmkeeper/t-1, when job j1"},
		"the fleet without a job": {user{record: "cmkeeper/t-1", name: "role/cmkeeper"}, "names cmkeeper/t-1.", ""},
		"somebody during a job":   {user{record: "app/i-1", name: "role/app", jobs: []reencrypt.Summary{job}}, "names app/i-1.", ""},
		"a job without a record":  {user{why: "denied", jobs: []reencrypt.Summary{job}}, "it was probably cmkeeper, which is no proof", ""},
		"a job of nobody knows":   {user{record: "x/y", name: "role/x", jobs: []reencrypt.Summary{{Job: "old", From: []string{key}}}}, "names x/y.", ""},
		"another account's role":  {user{record: "cmkeeper/t-1 (role session in 444455556666)", jobs: []reencrypt.Summary{{Job: "j", By: []string{""}}}}, "in 444455556666", ""},
		"jobs not read":           {user{why: "denied", jobsUnread: "access denied"}, "Whether a job of cmkeeper ran at that time is not known: access denied", ""},
	} {
		r := judge(facts{key: inventory.Key{ARN: key}, usage: &inventory.Usage{Operation: "Decrypt", At: at}, user: tt.user}, quiet, nil, noon)
		what := func(ties []Tie) string {
			if len(ties) != 1 || ties[0].ID != "last-use" {
				return ""
			}
			return ties[0].What
		}
		if got := what(r.Ties); (tt.tie == "") != (got == "") || !strings.Contains(got, tt.tie) {
			t.Errorf("%s: tie %q", name, got)
		}
		if got := what(r.Unknown); (tt.maybe == "") != (got == "") || !strings.Contains(got, tt.maybe) {
			t.Errorf("%s: unknown %q", name, got)
		}
	}
}

// pages is CloudTrail's event history, a page of records each; then it refuses.
type pages [][]string

func (p *pages) Call(_ context.Context, _ string, _, out any) error {
	if len(*p) == 0 {
		return &smithy.GenericAPIError{Code: "AccessDeniedException", Message: "cloudtrail:LookupEvents"}
	}
	type event struct {
		CloudTrailEvent string
		EventTime       float64
	}
	page := struct {
		Events    []event
		NextToken string
	}{NextToken: "more"}
	for _, record := range (*p)[0] {
		var r struct{ EventTime time.Time }
		if err := json.Unmarshal([]byte(record), &r); err != nil {
			return err
		}
		page.Events = append(page.Events, event{record, float64(r.EventTime.Unix())})
	}
	if *p = (*p)[1:]; len(*p) == 0 {
		page.NextToken = ""
	}
	text, err := json.Marshal(page)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, out)
}

// TestUses: who used the key within the quiet days, but for the fleet's jobs, and for what.
func TestUses(t *testing.T) {
	const arn = "arn:aws:kms:us-east-1:111122223333:key/1b2c3d4e-0000-4000-8000-000000000001"
	const quiet = 7 * 24 * time.Hour
	now := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) // as in a bubble
	n := 0
	record := func(operation, role string, ago time.Duration, context string) string {
		n++
		return fmt.Sprintf(`{"eventID":"%08x-0000-4000-8000-000000000001","eventName":%q,"eventSource":"kms.amazonaws.com","eventTime":%q,"awsRegion":"us-east-1","recipientAccountId":"111122223333",`+
			`"userIdentity":{"type":"AssumedRole","arn":"arn:aws:sts::111122223333:assumed-role/%s/i-1","accountId":"111122223333","sessionContext":{"sessionIssuer":{"type":"Role","arn":"arn:aws:iam::111122223333:role/%[4]s"}}},`+
			`"resources":[{"ARN":%q}],"requestParameters":{"encryptionContext":{%s}}}`, n, operation, now.Add(-ago).Format(time.RFC3339), role, arn, context)
	}
	object := `"aws:s3:arn":"arn:aws:s3:::orders/7\n"`
	own := record("ReEncrypt", "cmkeeper", time.Hour, object)
	jobs := []reencrypt.Summary{{Job: "j1", From: []string{arn}, By: []string{"role/cmkeeper"}, Started: now.Add(-2 * time.Hour), Finished: now.Add(-time.Hour)}}
	denied := strings.Replace(record("Decrypt", "app", 2*time.Minute, object), `"eventID"`, `"errorCode":"AccessDenied","eventID"`, 1)
	full := make([]string, 50)
	for i := range full {
		full[i] = record("Decrypt", "app", time.Duration(i)*time.Minute, object)
	}
	const app = "CloudTrail's event history shows 2 uses since 1999-12-25T00:00:00Z by others than jobs of cmkeeper: arn:aws:iam::111122223333:role/app (2, the last at 1999-12-31T23:58:00Z, 1 refused)." +
		" They named what they used it for: s3-bucket orders (1, the last at 1999-12-31T23:58:00Z, 1 refused)."
	for name, tt := range map[string]struct {
		pages pages
		own   int64
		want  string
		tie   bool
	}{
		"nobody":           {pages{{own}}, 1, "CloudTrail's event history, some minutes late, shows no use by others since 1999-12-25T00:00:00Z.", false},
		"others, too":      {pages{{denied, record("DescribeKey", "console", time.Minute, ""), own, record("Sign", "app", 3*24*time.Hour, ""), record("Sign", "old", quiet+time.Hour, "")}}, 1, app, true},
		"its role, before": {pages{{record("Decrypt", "cmkeeper", 24*time.Hour, object)}}, 0, "shows 1 uses", true},
		"not allowed":      {nil, 0, "Whether others used it is not known: look up events, which takes cloudtrail:LookupEvents: ", false},
		"busy":             {pages{full, full, full, full}, 0, "There may be more: the key is so busy that older ones were not looked up.", true},
	} {
		synctest.Test(t, func(t *testing.T) {
			c := Checker{Trail: &tt.pages, Quiet: quiet}
			uses, err := c.lookUp(t.Context(), inventory.Key{ARN: arn, Account: "111122223333"}, jobs)
			if err != nil {
				t.Fatal(err)
			}
			f := facts{key: inventory.Key{ARN: arn}, usage: &inventory.Usage{Operation: "ReEncrypt", At: now.Add(-time.Hour)}, uses: uses, user: user{record: "cmkeeper/t-1", name: "role/cmkeeper", jobs: jobs}}
			r := judge(f, quiet, nil, now)
			ties := slices.Concat(r.Ties, r.Unknown)
			if uses.Own != tt.own || len(ties) != 1 || !strings.Contains(ties[0].What, tt.want) || (len(r.Ties) == 1) != tt.tie || r.Uses != uses {
				t.Errorf("%s: %+v, ties %q, unknown %q", name, uses, r.Ties, r.Unknown)
			}
		})
	}
}

func TestWorkingWith(t *testing.T) {
	job := func(from, to string, started, finished time.Duration) reencrypt.Summary {
		j := reencrypt.Summary{From: []string{from}, To: to, Started: noon.Add(started)}
		if finished != 0 {
			j.Finished = noon.Add(finished)
		}
		return j
	}
	for name, tt := range map[string]struct {
		job  reencrypt.Summary
		want bool
	}{
		"from the key":     {job(key, "arn:x", -time.Hour, time.Hour), true},
		"to the key":       {job("arn:x", key, -time.Hour, time.Hour), true},
		"other keys":       {job("arn:x", "arn:y", -time.Hour, time.Hour), false},
		"it runs":          {job(key, "arn:x", -time.Hour, 0), true},
		"before":           {job(key, "arn:x", -2*time.Hour, -time.Hour), false},
		"after":            {job(key, "arn:x", time.Hour, 2*time.Hour), false},
		"within the clock": {job(key, "arn:x", 30*time.Second, time.Hour), true},
	} {
		if got := len(workingWith([]reencrypt.Summary{tt.job}, key, noon, noon.Add(time.Hour))) == 1; got != tt.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// TestMoveFix: what is advised has all that the command needs.
func TestMoveFix(t *testing.T) {
	const key = "arn:aws:kms:us-east-1:111122223333:key/1b2c3d4e-0000-4000-8000-000000000001"
	to := strings.Replace(key, "0001", "0002", 1)
	for name, tt := range map[string]struct {
		moveTo string
		f      facts
		in     reencrypt.Envelopes
		want   string
	}{
		"an alias":         {to, facts{aliases: []inventory.Alias{{Name: "alias/aws/x", AWSManaged: true}, {Name: "alias/app"}}}, reencrypt.EnvelopesOff, "cmkeeper rotate alias/app --dry-run"},
		"another key":      {to, facts{stateBucketSet: true}, reencrypt.EnvelopesOff, "cmkeeper reencrypt plan --bucket data --from " + key + " --to " + to},
		"another alias":    {"alias/new", facts{stateBucketSet: true}, reencrypt.EnvelopesOff, "cmkeeper reencrypt plan --bucket data --from " + key + " --to alias/new"},
		"no state bucket":  {"alias/new", facts{}, reencrypt.EnvelopesOff, "--to alias/new --state-bucket STATE-BUCKET"},
		"no place to go":   {"", facts{stateBucketSet: true}, reencrypt.EnvelopesOff, "cmkeeper reencrypt plan --bucket data --from " + key + " --to KEY-ID"},
		"a hostile target": {"alias/$(x)", facts{}, reencrypt.EnvelopesOff, "There is no command"},
		"data keys":        {"alias/new", facts{}, reencrypt.EnvelopesMetadata, "--to KEY-ID --envelopes metadata --state-bucket STATE-BUCKET"},
		"data keys, alias": {"", facts{aliases: []inventory.Alias{{Name: "alias/app"}}}, reencrypt.EnvelopesContent, "cmkeeper rotate alias/app --dry-run --envelopes content --rewrite-files"},
	} {
		tt.f.key.ARN = key
		b := bucketFacts{Bucket: inventory.Bucket{Name: "data"}, moveTo: tt.moveTo}
		if got := moveFix(b, tt.f, tt.in); !strings.HasSuffix(got, tt.want) && (name != "a hostile target" || !strings.Contains(got, tt.want)) {
			t.Errorf("%s: %q", name, got)
		}
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
		status    reencrypt.Status
		counts    reencrypt.Counts
		in, asked reencrypt.Envelopes
		want      bool
	}{
		"all moved":                {whole, reencrypt.Counts{Moved: 5}, "", reencrypt.EnvelopesOff, true},
		"one refused":              {whole, reencrypt.Counts{Moved: 4, Refused: 1}, "", "", false},
		"one failed":               {whole, reencrypt.Counts{Moved: 4, Failed: 1}, "", "", false},
		"current only":             {reencrypt.Status{Versions: reencrypt.VersionsCurrent}, reencrypt.Counts{Moved: 5}, "", "", false},
		"only a report":            {reencrypt.Status{Versions: reencrypt.VersionsAll, RetryOf: "j1"}, reencrypt.Counts{Moved: 5}, "", "", false},
		"more than was asked":      {whole, reencrypt.Counts{}, reencrypt.EnvelopesContent, reencrypt.EnvelopesMetadata, true},
		"as far as was asked":      {whole, reencrypt.Counts{}, reencrypt.EnvelopesContent, reencrypt.EnvelopesContent, true},
		"not as far as was asked":  {whole, reencrypt.Counts{}, reencrypt.EnvelopesMetadata, reencrypt.EnvelopesContent, false},
		"no data keys looked for":  {whole, reencrypt.Counts{}, "", reencrypt.EnvelopesMetadata, false},
		"data keys, and not asked": {whole, reencrypt.Counts{}, reencrypt.EnvelopesMetadata, "", true},
	} {
		if got := proves(tt.status, reencrypt.Summary{Counts: tt.counts, EnvelopesIn: tt.in}, tt.asked); got != tt.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// TestDataKeys: what is said of data keys is what to do, and what was not looked at.
func TestDataKeys(t *testing.T) {
	const key = "arn:aws:kms:us-east-1:111122223333:key/1b2c3d4e-0000-4000-8000-000000000001"
	group := func(format string, reason reencrypt.Reason, n int64) reencrypt.Group {
		return reencrypt.Group{Key: "arn:other", Envelope: format, Sealed: true, Reason: reason, Versions: n}
	}
	unsure := func(g reencrypt.Group) reencrypt.Group { g.Unsure = true; return g }
	plan := "see what that takes: cmkeeper reencrypt plan --bucket data --from " + key + " --to KEY-ID"
	again := "Decrypt what cannot be re-wrapped and encrypt it again under another key, or delete it."
	for name, tt := range map[string]struct {
		groups       []reencrypt.Group
		what, endsIn string
	}{
		"in metadata":          {[]reencrypt.Group{group("s3-client-v2", "", 2)}, "2 object versions in bucket data hold data keys of client-side encryption (s3-client-v2) that are under the key.", plan + " --envelopes metadata"},
		"in bodies":            {[]reencrypt.Group{group("sops", reencrypt.ReasonEnvelopeFile, 1)}, "hold data keys of client-side encryption (sops)", plan + " --envelopes content --rewrite-files"},
		"cannot be re-wrapped": {[]reencrypt.Group{group("aws-encryption-sdk", reencrypt.ReasonEnvelopeFormat, 3)}, "3 of them cannot be re-wrapped (envelope-format: 3).", again},
		"some cannot": {
			[]reencrypt.Group{group("sops", reencrypt.ReasonEnvelopeFile, 1), group("sops", reencrypt.ReasonNoncurrent, 3), group("sops", reencrypt.ReasonObjectLock, 2)},
			"6 object versions in bucket data hold data keys of client-side encryption (sops) that are under the key. 5 of them cannot be re-wrapped (noncurrent: 3, object-lock: 2).", plan + " --envelopes content --rewrite-files",
		},
		"nobody can say": {
			[]reencrypt.Group{unsure(group("", reencrypt.ReasonEnvelopeUnread, 1)), unsure(group("sops", reencrypt.ReasonEnvelopeFormat, 2))},
			"3 object versions in bucket data may hold data keys of client-side encryption that are under the key: nobody can say (envelope-format: 2, envelope-unread: 1).", "find out what these objects are.",
		},
	} {
		b := bucketFacts{Bucket: inventory.Bucket{Name: "data"}, moveTo: "alias/new", survey: &reencrypt.Survey{Groups: tt.groups}}
		r := judge(facts{key: inventory.Key{ARN: key}, buckets: []bucketFacts{b}, stateBucketSet: true}, 0, nil, noon)
		ties := slices.Concat(r.Ties, r.Unknown)
		if len(ties) != 1 || !strings.Contains(ties[0].What, tt.what) || !strings.HasSuffix(ties[0].Fix, tt.endsIn) {
			t.Errorf("%s: %q", name, ties)
		}
		if stuck := strings.Contains(ties[0].What, "cannot be re-wrapped"); stuck != strings.HasPrefix(ties[0].Fix, again) {
			t.Errorf("%s: %q", name, ties)
		}
	}
	for asked, want := range map[reencrypt.Envelopes]string{
		"": "was not looked for", reencrypt.EnvelopesOff: "was not looked for", reencrypt.EnvelopesMetadata: "in metadata and instruction files alone", reencrypt.EnvelopesContent: "in the formats that are known",
	} {
		r := judge(facts{envelopes: asked}, 0, nil, noon)
		named := strings.Contains(strings.Join(r.Notes, "\n"), "--envelopes content")
		if !strings.Contains(strings.Join(r.Notes, "\n"), want) || !r.Free || r.Envelopes == "" || named != (asked != reencrypt.EnvelopesContent) {
			t.Errorf("asked to look in %q: %+v", asked, r)
		}
	}
}
