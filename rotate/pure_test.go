package rotate

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/cmkeeper/cmkeeper/internal/awsclient"
	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/keypolicy"
	"github.com/cmkeeper/cmkeeper/reencrypt"
	"github.com/cmkeeper/cmkeeper/retire"
	"github.com/cmkeeper/cmkeeper/state"
)

const (
	oldID  = "1234abcd-12ab-34cd-56ef-1234567890ab"
	newID  = "99999999-12ab-34cd-56ef-1234567890ab"
	prefix = "arn:aws:kms:us-east-1:111122223333:key/"
)

func TestPolicies(t *testing.T) {
	for name, tt := range map[string]struct{ policy, create, final string }{
		"names no key":            {`{"Statement" : [ {"Resource": "*"} ]}`, `{"Statement" : [ {"Resource": "*"} ]}`, `{"Statement" : [ {"Resource": "*"} ]}`},
		"the ARN":                 {`{"Statement":[{"Resource":"` + prefix + oldID + `"}]}`, `{"Statement":[{"Resource":"*"}]}`, `{"Statement":[{"Resource":"` + prefix + newID + `"}]}`},
		"the id":                  {`{"Statement":[{"Resource":"` + oldID + `"}]}`, `{"Statement":[{"Resource":"*"}]}`, `{"Statement":[{"Resource":"` + newID + `"}]}`},
		"a list":                  {`{"Statement":[{"Resource":["a","` + prefix + oldID + `","*"]}]}`, `{"Statement":[{"Resource":["a","*","*"]}]}`, `{"Statement":[{"Resource":["a","` + prefix + newID + `","*"]}]}`},
		"one statement":           {`{"Statement":{"Resource":"` + oldID + `"}}`, `{"Statement":{"Resource":"*"}}`, `{"Statement":{"Resource":"` + newID + `"}}`},
		"all but the key":         {`{"Statement":[{"NotResource":"` + oldID + `"}]}`, `{"Statement":[{"NotResource":"*"}]}`, `{"Statement":[{"NotResource":"` + newID + `"}]}`},
		"without resource":        {`{"Statement":[{"Sid":"` + oldID + `"}]}`, `{"Statement":[{"Sid":"` + oldID + `"}]}`, `{"Statement":[{"Sid":"` + newID + `"}]}`},
		"in a condition":          {`{"Statement":[{"Condition":{"ArnEquals":{"aws:SourceArn":"` + prefix + oldID + `"}},"Resource":"*"}]}`, `{"Statement":[{"Condition":{"ArnEquals":{"aws:SourceArn":"` + prefix + oldID + `"}},"Resource":"*"}]}`, `{"Statement":[{"Condition":{"ArnEquals":{"aws:SourceArn":"` + prefix + newID + `"}},"Resource":"*"}]}`},
		"characters of HTML":      {`{"Statement":[{"Resource":"` + oldID + `","Sid":"a<b&c"}]}`, `{"Statement":[{"Resource":"*","Sid":"a<b&c"}]}`, `{"Statement":[{"Resource":"` + newID + `","Sid":"a<b&c"}]}`},
		"a large number":          {`{"Statement":[{"Condition":{"N":{"k":12345678901234567890}},"Resource":"` + oldID + `"}]}`, `{"Statement":[{"Condition":{"N":{"k":12345678901234567890}},"Resource":"*"}]}`, `{"Statement":[{"Condition":{"N":{"k":12345678901234567890}},"Resource":"` + newID + `"}]}`},
		"no statement":            {`{"Id":"` + oldID + `"}`, `{"Id":"` + oldID + `"}`, `{"Id":"` + newID + `"}`},
		"in a key's other Region": {`{"Statement":[{"Resource":"arn:aws:kms:eu-west-1:111122223333:key/` + oldID + `"}]}`, `{"Statement":[{"Resource":"*"}]}`, `{"Statement":[{"Resource":"arn:aws:kms:eu-west-1:111122223333:key/` + newID + `"}]}`},
	} {
		create, err := creationPolicy(tt.policy, oldID)
		if err != nil || create != tt.create {
			t.Errorf("%s: created with %s, %v, want %s", name, create, err, tt.create)
		}
		if final := finalPolicy(tt.policy, oldID, newID); final != tt.final {
			t.Errorf("%s: in the end %s, want %s", name, final, tt.final)
		}
	}
	mrk := "mrk-1234abcd12ab34cd56ef1234567890ab"
	if got, err := creationPolicy(`{"Statement":[{"Resource":"`+prefix+mrk+`"}]}`, mrk); err != nil || got != `{"Statement":[{"Resource":"*"}]}` {
		t.Errorf("of a multi-Region key: %s, %v", got, err)
	}
	if _, err := creationPolicy(`{"Statement":[`+oldID, oldID); err == nil {
		t.Error("a policy that is no JSON is copied")
	}
}

// FuzzCreationPolicy has the policy that a key is created with mean what the old one does,
// but for which key it is about.
func FuzzCreationPolicy(f *testing.F) {
	files, err := filepath.Glob("../keypolicy/testdata/corpus/*.json")
	if err != nil || len(files) == 0 {
		f.Fatal(files, err)
	}
	for _, file := range files {
		body, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		var all []struct{ Policy json.RawMessage }
		if err := json.Unmarshal(body, &all); err != nil {
			f.Fatal(file, err)
		}
		for _, p := range all {
			f.Add(string(p.Policy))
			f.Add(strings.ReplaceAll(string(p.Policy), `"Resource": "*"`, `"Resource": ["`+prefix+oldID+`"]`))
		}
	}
	f.Fuzz(func(t *testing.T, policy string) {
		before, err := keypolicy.Parse([]byte(policy))
		if err != nil {
			return
		}
		got, err := creationPolicy(policy, oldID)
		if err != nil {
			t.Fatalf("a policy that is one cannot be copied: %v", err)
		}
		after, err := keypolicy.Parse([]byte(got))
		if err != nil {
			t.Fatalf("%s became %s: %v", policy, got, err)
		}
		for i := range before.Statements {
			for j, r := range before.Statements[i].Resources {
				if strings.Contains(r, oldID) {
					before.Statements[i].Resources[j] = "*"
				}
			}
		}
		byKey := cmpopts.SortSlices(func(a, b keypolicy.Condition) int { return strings.Compare(a.Operator+" "+a.Key, b.Operator+" "+b.Key) })
		byName := cmpopts.SortSlices(func(a, b keypolicy.Principal) int { return strings.Compare(a.Type+" "+a.ID, b.Type+" "+b.ID) })
		if diff := cmp.Diff(before, after, byKey, byName, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s became %s:\n%s", policy, got, diff)
		}
	})
}

// plain is a key that can be replaced.
func plain(change func(*source)) source {
	s := source{
		key: inventory.Key{
			ARN: prefix + oldID, ID: oldID, State: "Enabled", Manager: "CUSTOMER", Origin: "AWS_KMS", Spec: "SYMMETRIC_DEFAULT", Usage: "ENCRYPT_DECRYPT", Description: "d",
		},
		policy: `{"Statement":[{"Resource":"*"}]}`, tags: map[string]string{"b": "2", "a": "1", "aws:x": "y", "cmkeeper:deletion-approved": "z"},
	}
	if change != nil {
		change(&s)
	}
	return s
}

func TestBlocker(t *testing.T) {
	many := map[string]string{"aws:x": ""}
	for i := range 50 {
		many[fmt.Sprint(i)] = ""
	}
	for name, tt := range map[string]struct {
		source source
		c      Choices
		want   string
	}{
		"none":             {plain(nil), Choices{}, ""},
		"of AWS":           {plain(func(s *source) { s.key.Manager = "AWS" }), Choices{}, "AWS manages"},
		"a replica":        {plain(func(s *source) { s.key.MultiRegion, s.key.PrimaryARN = "REPLICA", "arn:primary" }), Choices{}, "arn:primary"},
		"a primary":        {plain(func(s *source) { s.key.MultiRegion = "PRIMARY" }), Choices{}, ""},
		"disabled":         {plain(func(s *source) { s.key.State = "Disabled" }), Choices{}, "is Disabled"},
		"pending deletion": {plain(func(s *source) { s.key.State = "PendingDeletion" }), Choices{}, "is PendingDeletion"},
		"imported":         {plain(func(s *source) { s.key.Origin = "EXTERNAL" }), Choices{}, ""},
		"pending material": {plain(func(s *source) { s.key.Origin, s.pending, s.tags = "EXTERNAL", "m", many }), Choices{}, ""},
		"external":         {plain(func(s *source) { s.key.Origin = "EXTERNAL_KEY_STORE" }), Choices{}, "--xks-key-id"},
		"external, named":  {plain(func(s *source) { s.key.Origin = "EXTERNAL_KEY_STORE" }), Choices{XksKey: "x"}, ""},
		"not external":     {plain(nil), Choices{XksKey: "x"}, "is not"},
		"files, unread":    {plain(nil), Choices{RewriteFiles: true, Envelopes: "metadata"}, "--envelopes content"},
		"files":            {plain(nil), Choices{RewriteFiles: true, Envelopes: "content"}, ""},
		"full of tags":     {plain(func(s *source) { s.tags = many }), Choices{}, "the 50 tags"},
		"nearly full": {plain(func(s *source) {
			s.tags = map[string]string{"aws:x": ""}
			for i := range 49 {
				s.tags[fmt.Sprint(i)] = ""
			}
		}), Choices{}, ""},
	} {
		if got := tt.source.blocker(tt.c); (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

func TestNewKey(t *testing.T) {
	tags := func(more ...string) (all []types.Tag) {
		all = append(all, types.Tag{TagKey: aws.String(Tag), TagValue: aws.String("id")})
		for _, name := range more {
			k, v, _ := strings.Cut(name, "=")
			all = append(all, types.Tag{TagKey: &k, TagValue: &v})
		}
		return all
	}
	base := func(change func(*kms.CreateKeyInput)) *kms.CreateKeyInput {
		in := &kms.CreateKeyInput{
			Description: aws.String("d"), KeySpec: "SYMMETRIC_DEFAULT", KeyUsage: "ENCRYPT_DECRYPT", Origin: "AWS_KMS",
			Policy: aws.String(`{"Statement":[{"Resource":"*"}]}`), Tags: tags("a=1", "b=2"),
		}
		if change != nil {
			change(in)
		}
		return in
	}
	for name, tt := range map[string]struct {
		change func(*source)
		c      Choices
		want   func(*kms.CreateKeyInput)
	}{
		"as it is":      {},
		"no tags":       {change: func(s *source) { s.tags = nil }, want: func(in *kms.CreateKeyInput) { in.Tags = tags() }},
		"of a rotation": {change: func(s *source) { s.tags = map[string]string{Tag: "another"} }, want: func(in *kms.CreateKeyInput) { in.Tags = tags() }},
		"its own name":  {change: func(s *source) { s.policy = `{"Statement":[{"Resource":"` + prefix + oldID + `"}]}` }},
		"signs":         {change: func(s *source) { s.key.Spec, s.key.Usage = "RSA_2048", "SIGN_VERIFY" }, want: func(in *kms.CreateKeyInput) { in.KeySpec, in.KeyUsage = "RSA_2048", "SIGN_VERIFY" }},
		"HMAC":          {change: func(s *source) { s.key.Spec, s.key.Usage = "HMAC_256", "GENERATE_VERIFY_MAC" }, want: func(in *kms.CreateKeyInput) { in.KeySpec, in.KeyUsage = "HMAC_256", "GENERATE_VERIFY_MAC" }},
		"multi-Region":  {change: func(s *source) { s.key.MultiRegion = "PRIMARY" }, want: func(in *kms.CreateKeyInput) { in.MultiRegion = aws.Bool(true) }},
		"imported":      {change: func(s *source) { s.key.Origin = "EXTERNAL" }, want: func(in *kms.CreateKeyInput) { in.Origin = "EXTERNAL" }},
		"CloudHSM": {change: func(s *source) { s.key.Origin, s.key.CustomKeyStoreID = "AWS_CLOUDHSM", "cks-1" }, want: func(in *kms.CreateKeyInput) {
			in.Origin, in.CustomKeyStoreId = "AWS_CLOUDHSM", aws.String("cks-1")
		}},
		"external": {change: func(s *source) { s.key.Origin, s.key.CustomKeyStoreID = "EXTERNAL_KEY_STORE", "cks-1" }, c: Choices{XksKey: "x"}, want: func(in *kms.CreateKeyInput) {
			in.Origin, in.CustomKeyStoreId, in.XksKeyId = "EXTERNAL_KEY_STORE", aws.String("cks-1"), aws.String("x")
		}},
	} {
		got, err := plain(tt.change).newKey("id", tt.c)
		if diff := cmp.Diff(base(tt.want), got, cmpopts.IgnoreUnexported(kms.CreateKeyInput{}, types.Tag{})); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
	}
	if _, err := plain(func(s *source) { s.policy = "{" + oldID }).newKey("id", Choices{}); err == nil {
		t.Error("a key is made with a policy that is none")
	}
}

func TestSteps(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	walk := func(r Record) (names []Step, last Record) {
		for !r.Ended() && len(names) < 20 {
			names = append(names, r.Step)
			r.Waits, r.Why, r.Creating = at, "because", at
			r.finish(r.Step, at, "did")
			if !r.Waits.IsZero() || r.Why != "" || !r.Creating.IsZero() {
				t.Errorf("after %s it still waits: %+v", names, r)
			}
		}
		return names, r
	}
	forward := []Step{StepCreateKey, StepSurvey, StepMoveAliases, StepMoveDefaults, StepMoveData, StepCheckOldKey}
	for name, tt := range map[string]struct {
		record Record
		want   []Step
		state  State
		place  bool
	}{
		"whole":         {Record{State: StateRunning, Step: StepCreateKey}, forward, StateDone, false},
		"with deletion": {Record{State: StateRunning, Step: StepCreateKey, Options: Choices{DeleteOld: true}}, append(slices.Clone(forward), StepDeleteOldKey), StateDone, false},
		"in place":      {Record{State: StateRunning, Step: StepRotateMaterial, Options: Choices{DeleteOld: true}}, []Step{StepRotateMaterial}, StateDone, true},
		"undone":        {Record{State: StateAborting, Step: StepRestoreAliases}, []Step{StepRestoreAliases, StepRestoreDefaults, StepRestoreData, StepDisableNewKey}, StateAborted, false},
		"the new key":   {Record{State: StateAborting, Step: StepDisableNewKey, Options: Choices{DeleteOld: true}}, []Step{StepDisableNewKey}, StateAborted, false},
		"from the data": {Record{State: StateRunning, Step: StepMoveData}, forward[4:], StateDone, false},
	} {
		got, last := walk(tt.record)
		if diff := cmp.Diff(tt.want, got); diff != "" || last.State != tt.state || last.Step != "" || len(last.Done) != len(got) || last.InPlace() != tt.place {
			t.Errorf("%s: %+v\n%s", name, last, diff)
		}
	}
	r := Record{State: StateRunning, Step: StepSurvey}
	if r.finish(StepCreateKey, at, "late"); r.Step != StepSurvey || len(r.Done) > 0 {
		t.Errorf("a step that is done already is done again: %+v", r)
	}
}

func TestGoesOn(t *testing.T) {
	for _, tt := range []struct {
		state State
		step  Step
		until Step
		want  bool
	}{
		{StateRunning, StepCreateKey, "", true}, {StateRunning, StepCreateKey, StepCreateKey, true}, {StateRunning, StepSurvey, StepCreateKey, false},
		{StateRunning, StepSurvey, StepMoveData, true}, {StateRunning, StepCheckOldKey, StepMoveAliases, false}, {StateDone, "", "", false}, {StateDone, "", StepMoveData, false},
		{StateAborting, StepRestoreData, StepRestoreAliases, false}, {StateAborting, StepRestoreData, StepRestoreData, true}, {StateAborted, "", "", false},
	} {
		r := Record{State: tt.state, Step: tt.step}
		if got := r.goesOn(tt.until); got != tt.want {
			t.Errorf("%s at %s until %q: %t", tt.state, tt.step, tt.until, got)
		}
	}
}

// TestUnlike: an option that is given again has to be the one that the rotation began with.
func TestUnlike(t *testing.T) {
	began := Choices{Buckets: []string{"a"}, DeleteOld: true, UnusedDays: 30, XksKey: "x", Envelopes: "metadata"}
	for _, tt := range []struct {
		name string
		c    Choices
		want []string
	}{
		{"none", Choices{UnusedDays: 30}, nil},
		{"the same", began, nil},
		{"others", Choices{Buckets: []string{"b"}, DeleteOld: true, UnusedDays: 60, AcceptPolicy: true, XksKey: "y", Envelopes: "content", RewriteFiles: true}, []string{"--bucket", "--unused-days", "--accept-policy", "--xks-key-id", "--envelopes", "--rewrite-files"}},
		{"off", Choices{Envelopes: reencrypt.EnvelopesOff}, nil},
	} {
		if got := tt.c.unlike(began); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q", tt.name, got)
		}
	}
	if got := began.unlike(Choices{}); !slices.Equal(got, []string{"--bucket", "--delete-old", "--unused-days", "--xks-key-id", "--envelopes"}) {
		t.Errorf("of one without options: %q", got)
	}
}

// TestHasJustEnded: the same command soon after the end means the rotation that has ended.
func TestHasJustEnded(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for name, tt := range map[string]struct {
		state State
		ago   time.Duration
		want  bool
	}{
		"a minute ago": {StateDone, time.Minute, true},
		"an hour ago":  {StateDone, time.Hour, false},
		"running":      {StateRunning, time.Minute, false},
		"aborted":      {StateAborted, time.Minute, false},
	} {
		if got := (&Record{State: tt.state, Done: []Done{{At: now.Add(-tt.ago)}}}).hasJustEnded(now); got != tt.want {
			t.Errorf("%s: %t", name, got)
		}
	}
	if (&Record{State: StateDone}).hasJustEnded(now) {
		t.Error("nothing was done")
	}
}

func TestWasInterrupted(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		state State
		lease lease
		want  bool
	}{
		{StateDone, lease{}, false}, {StateDone, lease{"h", now.Add(-time.Hour)}, true}, {StateDone, lease{"h", now.Add(-25 * time.Hour)}, false},
		{StateRunning, lease{"h", now.Add(time.Minute)}, true}, {StateAborted, lease{"h", now}, false}, {StateAborting, lease{"h", now}, false},
	} {
		if got := (&Record{State: tt.state, Lease: tt.lease}).wasInterrupted(now); got != tt.want {
			t.Errorf("%s, lease until %s: %t", tt.state, tt.lease.Until, got)
		}
	}
}

func TestLateBuckets(t *testing.T) {
	left := []Left{{ID: "grant:g"}, {ID: "objects:b"}, {ID: "uploads:c"}, {ID: "envelopes:d:sops"}, {ID: "envelopes-unknown:e"}}
	for _, tt := range []struct {
		rec  Record
		want []string
	}{{Record{Left: left}, nil}, {Record{Round: 1, Left: left}, []string{"b", "d"}}, {Record{Round: 1, Left: left[:1]}, nil}} {
		if diff := cmp.Diff(tt.want, lateBuckets(tt.rec)); diff != "" {
			t.Errorf("round %d: %s", tt.rec.Round, diff)
		}
	}
}

// TestStuck: what stays is named, as objects and as data keys in objects, and what moves is not.
func TestStuck(t *testing.T) {
	p := reencrypt.BucketPlan{Bucket: "b", From: []string{"old"}, Survey: reencrypt.Survey{Groups: []reencrypt.Group{
		{Key: "old", Action: "refuse", Reason: reencrypt.ReasonDSSE, Versions: 1},
		{Key: "other", Action: "refuse", Reason: reencrypt.ReasonUnreadableHead, Versions: 2},
		{Key: "old", Action: "update", Versions: 4},
		{Key: "old", Action: "update", Reason: reencrypt.ReasonEnvelopeFile, Envelope: "sops", Sealed: true, Versions: 8},
		{Key: "other", Action: "refuse", Reason: reencrypt.ReasonEnvelopeUnread, Sealed: true, Unsure: true, Versions: 16},
		{Key: "other", Action: "re-wrap", Envelope: "s3-client-v2", Sealed: true, Versions: 32},
		{Key: "other", Action: "skip", Reason: reencrypt.ReasonOtherKey, Envelope: "tink", Versions: 64},
	}}}
	want := []Left{
		{"objects:b", "1 object version under the key in bucket b cannot be moved. Why.", "fix"},
		{"envelopes:b", "Data keys of client-side encryption in 24 object versions of bucket b are under the key, or may be, and cannot be moved. Why.", "fix"},
	}
	if diff := cmp.Diff(want, stuck(p, " Why.", "fix")); diff != "" {
		t.Error(diff)
	}
	if got := dataKeys([]reencrypt.BucketPlan{p, p}); got != "s3-client-v2 in 64 object versions" {
		t.Error(got)
	}
	if got := dataKeys(nil); got != "none" {
		t.Error(got)
	}
}

// TestRecordSchema: only a rotation that moves data keys is not for builds before.
func TestRecordSchema(t *testing.T) {
	for envelopes, want := range map[reencrypt.Envelopes]int{"": 1, reencrypt.EnvelopesOff: 1, reencrypt.EnvelopesMetadata: 2, reencrypt.EnvelopesContent: 2} {
		if _, got := (&Record{Options: Choices{Envelopes: envelopes}}).Schema(); got != want {
			t.Errorf("%q: version %d, want %d", envelopes, got, want)
		}
	}
}

// TestPlanCommand: the command that is advised plans what the rotation does.
func TestPlanCommand(t *testing.T) {
	for want, c := range map[string]Choices{
		"": {}, " --envelopes metadata": {Envelopes: "metadata"}, " --envelopes content": {Envelopes: "content"},
		" --envelopes content --rewrite-files": {Envelopes: "content", RewriteFiles: true},
	} {
		want = "cmkeeper reencrypt plan --bucket data --from " + prefix + oldID + " --to " + prefix + newID + want
		if got := c.plan("data", prefix+oldID, prefix+newID); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestLeftOf(t *testing.T) {
	got := leftOf(retire.Result{Ties: []retire.Tie{{ID: "a", What: "b", Fix: "c"}}, Unknown: []retire.Tie{{ID: "d", What: "e"}}})
	if diff := cmp.Diff([]Left{{"a", "b", "c"}, {"d", "e", ""}}, got); diff != "" {
		t.Error(diff)
	}
	if got := leftOf(retire.Result{}); got != nil {
		t.Error(got)
	}
}

// TestMoves asks the fleet's question about all moves between three keys in all states.
func TestMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := localaws.New(localaws.Options{})
		defer server.Close()
		client := awsclient.S3(inprocess.Config(server, "us-east-1", "fleet"), aws.Bool(true))
		if _, err := client.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: aws.String("state")}); err != nil {
			t.Fatal(err)
		}
		store := state.New(client, "state", "", "")
		ask := func(alias string, from []string, to string) string {
			id, err := Moves(t.Context(), store, alias, from, to)
			if err != nil {
				t.Fatal(err)
			}
			return id
		}
		if got := ask("alias/a", []string{"old"}, "new"); got != "" {
			t.Errorf("without any rotation: %s", got)
		}
		if err := state.Update(t.Context(), store, claimKey("alias/a"), func(c *claim, _ bool) error { c.Rotation = "r"; return nil }); err != nil {
			t.Fatal(err)
		}
		if got := ask("alias/a", []string{"old"}, "new"); got != "" {
			t.Errorf("without its record: %s", got)
		}
		// Which of the moves are the rotation's, by state.
		want := map[State][]string{
			StateRunning: {"old>new"}, StateDone: {"old>new"},
			StateAborting: {"old>new", "new>old"}, StateAborted: {"new>old"},
		}
		for _, made := range []string{"", "new"} {
			for at, own := range want {
				err := state.Update(t.Context(), store, recordKey("r"), func(r *Record, _ bool) error {
					*r = Record{ID: "r", State: at, Aliases: []string{"alias/a"}, Old: "old", New: made}
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				if got := ask("alias/b", []string{"old"}, "new"); got != "" {
					t.Errorf("another alias: %q", got)
				}
				for _, from := range [][]string{{"old"}, {"new"}, {"other"}, {"old", "other"}, {"new", "old"}, {}, nil} {
					for _, to := range []string{"old", "new", "other", ""} {
						is := made != "" && slices.Contains(own, strings.Join(from, ",")+">"+to)
						if got := ask("alias/a", from, to); (got == "r") != is {
							t.Errorf("%s, new key %q, from %v to %q: %q", at, made, from, to, got)
						}
					}
				}
			}
		}
	})
}
