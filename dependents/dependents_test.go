package dependents_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	kmstypes "github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/awsconfig"
	"github.com/cmkeeper/cmkeeper/dependents"
	"github.com/cmkeeper/cmkeeper/internal/awsclient"
	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/config"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
	"github.com/cmkeeper/cmkeeper/inventory"
)

const (
	account = "111122223333"
	region  = "us-east-1"
	caller  = "keeper"
)

// world is an account with a key, an alias and resources under the key.
type world struct {
	t       *testing.T
	aws     *localaws.Server
	keys    *kms.Client
	facts   *inventory.Reader
	reader  dependents.Reader
	key     inventory.Key
	aliases []inventory.Alias
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, aws: localaws.New(localaws.Options{Account: account})}
	t.Cleanup(w.aws.Close)
	cfg := inprocess.Config(w.aws, region, caller)
	cfg.Retryer = func() aws.Retryer { return aws.NopRetryer{} }
	w.keys = kms.NewFromConfig(inprocess.Config(w.aws, region, "operator"))
	w.facts = inventory.New(kms.NewFromConfig(cfg), awsclient.S3(cfg, nil), account, region)
	trail := awsclient.CloudTrail(cfg)
	w.reader = dependents.Reader{
		Config: awsclient.AWSConfig(cfg),
		Uses: func(ctx context.Context, keyARN string) ([]dependents.Event, error) {
			return dependents.LookUp(ctx, trail, keyARN)
		},
	}
	w.aws.AWSConfig().SetRecorder(&config.Recorder{Group: config.All()})
	made := must(w.keys.CreateKey(t.Context(), &kms.CreateKeyInput{}))(t)
	must(w.keys.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: aws.String("alias/orders"), TargetKeyId: made.KeyMetadata.KeyId}))(t)
	w.key = must(w.facts.Key(t.Context(), *made.KeyMetadata.Arn))(t)
	w.aliases = must(w.facts.AliasesOf(t.Context(), w.key.ARN))(t)
	return w
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// of reads what the reader needs, and asks it.
func (w *world) of(ctx context.Context) dependents.Result {
	aliases := dependents.Read[[]inventory.Alias]{At: time.Now()}
	aliases.Value, aliases.Err = w.facts.AliasesOf(ctx, w.key.ARN)
	grants := dependents.Read[[]inventory.Grant]{At: time.Now()}
	grants.Value, grants.Err = w.facts.Grants(ctx, w.key.ARN)
	return w.reader.Of(ctx, w.key, aliases, grants)
}

func ids(found []dependents.Dependent) (all []string) {
	for _, d := range found {
		all = append(all, d.Kind+":"+d.ID)
	}
	slices.Sort(all)
	return all
}

// atPath is a configuration with the value at a path of the table.
func atPath(path string, value any) map[string]any {
	names := strings.Split(strings.TrimPrefix(path, "configuration."), ".")
	for i := len(names) - 1; i > 0; i-- {
		value = map[string]any{names[i]: value}
	}
	return map[string]any{names[0]: value}
}

// TestKnownWorld has a resource of each type under the key, by each property and each name
// of the key, beside resources under other keys, and finds all of them and no other.
func TestKnownWorld(t *testing.T) {
	w := newWorld(t)
	const other = "arn:aws:kms:us-east-1:111122223333:key/00000000-0000-0000-0000-000000000000"
	var want []string
	for _, ty := range awsconfig.Types {
		for i, path := range ty.Keys {
			for j, name := range []string{w.key.ARN, w.key.ID, "alias/orders", w.aliases[0].ARN} {
				id := fmt.Sprintf("%s-%d-%d", ty.Kind, i, j)
				w.aws.AWSConfig().Put(config.Item{Type: ty.Name, ID: id, Configuration: atPath(path, name)})
				want = append(want, ty.Kind+":"+id)
			}
			for _, name := range []string{other, "alias/other", "", "alias/orders2", strings.ToUpper(w.key.ID)} {
				w.aws.AWSConfig().Put(config.Item{Type: ty.Name, ID: "not-" + name, Configuration: atPath(path, name)})
			}
		}
	}
	slices.Sort(want)
	if len(want) > awsconfig.PageSize {
		w.trim(&want) // a page names that many; TestVeryMany is about more
	}
	got := w.of(t.Context())
	if d := cmp.Diff(want, ids(got.Config.Found)); d != "" || len(got.Config.Unknown) > 0 {
		t.Errorf("%v: %s", got.Config.Unknown, d)
	}
}

// trim leaves half of the resources, so that they fit on a page: each type and property by its
// ARN and by the alias.
func (w *world) trim(want *[]string) {
	kept := (*want)[:0]
	for _, id := range *want {
		kind, name, _ := strings.Cut(id, ":")
		if strings.HasSuffix(name, "-1") || strings.HasSuffix(name, "-3") {
			for _, ty := range awsconfig.Types {
				if ty.Kind == kind {
					w.aws.AWSConfig().Remove(ty.Name, name)
				}
			}
			continue
		}
		kept = append(kept, id)
	}
	*want = kept
}

// TestNamesOfTheKey finds a queue by each name of the key.
func TestNamesOfTheKey(t *testing.T) {
	w := newWorld(t)
	for i, name := range []string{w.key.ARN, w.key.ID, "alias/orders", w.aliases[0].ARN} {
		w.aws.AWSConfig().Put(config.Item{Type: "AWS::SQS::Queue", ID: fmt.Sprint(i), Configuration: map[string]any{"KmsMasterKeyId": name}})
	}
	if got := w.of(t.Context()); len(got.Config.Found) != 4 {
		t.Errorf("found %v", got.Config.Found)
	}
}

// TestManyAliases: the queries stay within their greatest length, and find the last alias.
func TestManyAliases(t *testing.T) {
	w := newWorld(t)
	for i := range 60 {
		must(w.keys.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: aws.String(fmt.Sprintf("alias/%s/%d", strings.Repeat("x", 150), i)), TargetKeyId: &w.key.ID}))(t)
	}
	aliases := must(w.facts.AliasesOf(t.Context(), w.key.ARN))(t)
	for i, a := range aliases {
		w.aws.AWSConfig().Put(config.Item{Type: "AWS::SNS::Topic", ID: fmt.Sprint(i), Configuration: map[string]any{"KmsMasterKeyId": a.Name}})
	}
	got := w.of(t.Context()).Config
	if len(got.Found) != 61 || len(got.Unknown) > 0 {
		t.Errorf("%d found, %v", len(got.Found), got.Unknown)
	}
}

// TestVeryMany: a key with 10,000 volumes is a line.
func TestVeryMany(t *testing.T) {
	w := newWorld(t)
	for i := range 10_000 {
		w.aws.AWSConfig().Put(config.Item{Type: "AWS::EC2::Volume", ID: fmt.Sprintf("vol-%05d", i), Configuration: map[string]any{"kmsKeyId": w.key.ARN}})
	}
	w.aws.AWSConfig().Put(config.Item{Type: "AWS::SQS::Queue", ID: "https://sqs/orders", Name: "orders", Configuration: map[string]any{"KmsMasterKeyId": w.key.ID}})
	got := w.of(t.Context()).Config
	want := []string{
		"10000 EBS volumes: vol-00000; vol-00001; vol-00002; vol-00003; vol-00004; and 9995 more",
		"1 SQS queue",
	}
	if d := cmp.Diff(want, got.Lines()); d != "" {
		t.Error(d)
	}
	if n := w.aws.Requests("config", "SelectResourceConfig"); n != 3 { // two for the properties, one for the numbers
		t.Errorf("%d queries", n)
	}
}

// TestGrantsAndUses: what grants and uses name, and that a context that names nothing is no
// dependent.
func TestGrantsAndUses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		const role = "arn:aws:iam::" + account + ":role/app"
		for _, in := range []kms.CreateGrantInput{
			{GranteePrincipal: aws.String(role), Constraints: &kmstypes.GrantConstraints{EncryptionContextSubset: map[string]string{"aws:ebs:id": "vol-1"}}},
			{GranteePrincipal: aws.String(role), Constraints: &kmstypes.GrantConstraints{EncryptionContextEquals: map[string]string{"aws:rds:db-id": "db-1"}}},
			{GranteePrincipal: aws.String(role + "2"), Constraints: &kmstypes.GrantConstraints{EncryptionContextEquals: map[string]string{"aws:rds:db-id": "db-1"}}},
			{GranteePrincipal: aws.String(role), Constraints: &kmstypes.GrantConstraints{EncryptionContextEquals: map[string]string{"tenant": "7"}}},
			{GranteePrincipal: aws.String(role)},
		} {
			in.KeyId, in.Operations = &w.key.ARN, []kmstypes.GrantOperation{kmstypes.GrantOperationDecrypt}
			must(w.keys.CreateGrant(t.Context(), &in))(t)
		}
		out := must(w.keys.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &w.key.ARN, Plaintext: []byte("x"), EncryptionContext: map[string]string{"SecretARN": "arn:aws:secretsmanager:us-east-1:" + account + ":secret:db"}}))(t)
		must(w.keys.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &w.key.ARN, Plaintext: []byte("x"), EncryptionContext: map[string]string{"tenant": "7"}}))(t)
		other := must(w.keys.CreateKey(t.Context(), &kms.CreateKeyInput{}))(t)
		must(w.keys.ReEncrypt(t.Context(), &kms.ReEncryptInput{
			CiphertextBlob: out.CiphertextBlob, SourceEncryptionContext: map[string]string{"SecretARN": "arn:aws:secretsmanager:us-east-1:" + account + ":secret:db"},
			DestinationKeyId: other.KeyMetadata.Arn, DestinationEncryptionContext: map[string]string{"aws:ebs:id": "vol-elsewhere"},
		}))(t)
		time.Sleep(time.Hour) // fake: CloudTrail is late
		got := w.of(t.Context())
		if d := cmp.Diff([]string{"ebs-volume:vol-1", "rds-instance:db-1"}, ids(got.Grants.Found)); d != "" {
			t.Error(d)
		}
		if d := cmp.Diff([]string{"secret:arn:aws:secretsmanager:us-east-1:" + account + ":secret:db"}, ids(got.Trail.Found)); d != "" {
			t.Error(d)
		}
		if d := got.Trail.Found[0]; !strings.Contains(d.Detail, "at 2000-01-01T00:") || d.At.IsZero() {
			t.Errorf("the use: %+v", d)
		}
		if all := got.All(); len(all) != 3 {
			t.Errorf("all: %v", all)
		}
		for _, s := range got.Sources() {
			if len(s.Unknown) > 0 || s.At.IsZero() {
				t.Errorf("%s at %s: %v", s.ID, s.At, s.Unknown)
			}
		}
	})
}

// TestServices: a grant to a service names the service, or the resource that it is for.
func TestServices(t *testing.T) {
	got := dependents.OfGrants(dependents.Read[[]inventory.Grant]{Value: []inventory.Grant{
		{ID: "1", GranteeService: "dynamodb.us-east-1.amazonaws.com", Operations: []string{"Decrypt"}},
		{ID: "2", Grantee: "rds.amazonaws.com"},
		{ID: "3", GranteeService: "x.amazonaws.com", SourceARN: "arn:aws:x:us-east-1:111122223333:y/z"},
		{ID: "4", Grantee: "arn:aws:iam::111122223333:role/app"},
	}})
	if d := cmp.Diff([]string{"aws-service:dynamodb.us-east-1.amazonaws.com", "aws-service:rds.amazonaws.com", "resource:arn:aws:x:us-east-1:111122223333:y/z"}, ids(got.Found)); d != "" {
		t.Error(d)
	}
}

// TestUsesOfHostileRecords: records of any form do no harm, and one that cannot be read is
// counted.
func TestUsesOfHostileRecords(t *testing.T) {
	event := func(record string) dependents.Event {
		return dependents.Event{EventName: "Decrypt", CloudTrailEvent: record, EventTime: 1}
	}
	decrypt := func(members string) dependents.Event {
		return event(`{"eventID":"1","eventName":"Decrypt","eventSource":"kms.amazonaws.com","eventTime":"1970-01-01T00:00:01Z","awsRegion":"us-east-1","recipientAccountId":"111122223333",` + members + `}`)
	}
	got := dependents.OfUses("arn:aws:kms:us-east-1:111122223333:key/k", dependents.Read[[]dependents.Event]{Value: []dependents.Event{
		decrypt(`"requestParameters":null`), event(`null`), decrypt(`"requestParameters":{"encryptionContext":{"aws:ebs:id":7}}`), event(`no JSON`),
		decrypt(`"errorCode":"DisabledException","userIdentity":{"invokedBy":"secretsmanager.amazonaws.com"},"requestParameters":{"encryptionContext":{"aws:ebs:id":"vol-1"}}`),
	}})
	want := []string{
		"1 EBS volume: vol-1, Decrypt at 1970-01-01T00:00:01Z by secretsmanager.amazonaws.com, refused with DisabledException",
		"unknown: 2 records could not be read",
	}
	if d := cmp.Diff(want, got.Lines()); d != "" {
		t.Error(d)
	}
}

// TestMissingSources takes away each source in turn. What it knows is said to be unknown,
// with the reason, and the other sources answer as before.
func TestMissingSources(t *testing.T) {
	stopped := time.Date(1999, 11, 1, 0, 0, 0, 0, time.UTC)
	denied := func(action string) func(*world) {
		return func(w *world) {
			w.aws.SetIdentityPolicy(caller, func(a, _ string) bool { return a != action })
		}
	}
	recorder := func(r *config.Recorder) func(*world) {
		return func(w *world) { w.aws.AWSConfig().SetRecorder(r) }
	}
	for name, test := range map[string]struct {
		change  func(*world)
		source  string // that is missing
		unknown string // the line about it
		fix     string
		id      string // "" is that of the source
		keeps   bool   // what it finds is told nevertheless
	}{
		"no recorder": {recorder(nil), "config", "unknown: AWS Config has no recorder in this Region", "", "", false},
		"stopped":     {recorder(&config.Recorder{Group: config.All(), Stopped: stopped}), "config", "unknown: the recorder of AWS Config has not run since 1999-11-01T00:00:00Z", "", "", true},
		"failing":     {recorder(&config.Recorder{Group: config.All(), LastError: "AccessDenied"}), "config", "unknown: the recorder of AWS Config fails with AccessDenied", "", "", true},
		"type not recorded": {recorder(&config.Recorder{Group: config.AllBut("AWS::SQS::Queue", "AWS::SNS::Topic")}), "config",
			"unknown of SNS topics, SQS queues: the recorder of AWS Config does not record the type", "", "dependents:AWS::SNS::Topic", true},
		"query denied":      {denied("config:SelectResourceConfig"), "config", "unknown: the permission is missing: query AWS Config: ", "Grant " + awsconfig.Permissions + ".", "", false},
		"recorder denied":   {denied("config:DescribeConfigurationRecorders"), "config", "unknown: the permission is missing: describe the recorder of AWS Config: ", "Grant " + awsconfig.Permissions + ".", "", true},
		"status denied":     {denied("config:DescribeConfigurationRecorderStatus"), "config", "unknown: the permission is missing: read the status of the recorder of AWS Config: ", "Grant " + awsconfig.Permissions + ".", "", true},
		"aliases denied":    {denied("kms:ListAliases"), "config", "unknown of resources that name the key by an alias: the permission is missing: ", "Grant kms:ListAliases.", "", true},
		"grants denied":     {denied("kms:ListGrants"), "grants", "unknown: the permission is missing: ", "Grant kms:ListGrants.", "", false},
		"CloudTrail denied": {denied("cloudtrail:LookupEvents"), "cloudtrail", "unknown: the permission is missing: look up events: ", "Grant cloudtrail:LookupEvents.", "", false},
		"Config throttled": {func(w *world) {
			w.aws.SetFaults(localaws.Fault{Service: "config", Operations: []string{"SelectResourceConfig"}, Effect: localaws.FailBefore})
		}, "config", "unknown: query AWS Config: ", "", "", false},
		"CloudTrail throttled": {func(w *world) {
			w.aws.SetFaults(localaws.Fault{Service: "cloudtrail", Effect: localaws.FailBefore})
		}, "cloudtrail", "unknown: look up events: ", "", "", false},
		"Config not asked":     {func(w *world) { w.reader.Config = nil }, "config", "unknown: AWS Config is not asked here", "", "", false},
		"CloudTrail not asked": {func(w *world) { w.reader.Uses = nil }, "cloudtrail", "unknown: CloudTrail is not asked here", "", "", false},
		"no answer in time": {func(w *world) {
			w.reader.Uses = func(context.Context, string) ([]dependents.Event, error) { return nil, context.DeadlineExceeded }
		}, "cloudtrail", "unknown: context deadline exceeded", "", "", false},
		"the numbers fail": {func(w *world) {
			for i := range 150 {
				w.aws.AWSConfig().Put(config.Item{Type: "AWS::EC2::Volume", ID: fmt.Sprintf("vol-%03d", i), Configuration: map[string]any{"kmsKeyId": w.key.ARN}})
			}
			asked := 0
			next := w.reader.Config
			w.reader.Config = api(func(ctx context.Context, operation string, in, out any) error {
				if operation == "SelectResourceConfig" {
					if asked++; asked == 2 {
						return errors.New("throttled")
					}
				}
				return next.Call(ctx, operation, in, out)
			})
		}, "config", "unknown of the number of further resources: query AWS Config: throttled", "", "", true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.aws.AWSConfig().Put(config.Item{Type: "AWS::EC2::Volume", ID: "vol-000", Configuration: map[string]any{"kmsKeyId": w.key.ARN}})
				must(w.keys.CreateGrant(t.Context(), &kms.CreateGrantInput{
					KeyId: &w.key.ARN, GranteePrincipal: aws.String("arn:aws:iam::" + account + ":role/app"), Operations: []kmstypes.GrantOperation{kmstypes.GrantOperationDecrypt},
					Constraints: &kmstypes.GrantConstraints{EncryptionContextSubset: map[string]string{"aws:ebs:id": "vol-000"}},
				}))(t)
				must(w.keys.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &w.key.ARN, Plaintext: []byte("x"), EncryptionContext: map[string]string{"aws:ebs:id": "vol-000"}}))(t)
				time.Sleep(time.Hour) // fake
				for _, s := range w.of(t.Context()).Sources() {
					if len(s.Unknown) > 0 || len(s.Found) != 1 {
						t.Fatalf("before: %s: %v, %v", s.ID, s.Found, s.Unknown)
					}
				}
				time.Sleep(time.Minute)
				test.change(w)
				for _, s := range w.of(t.Context()).Sources() {
					if s.ID != test.source {
						if len(s.Unknown) > 0 || len(s.Found) != 1 {
							t.Errorf("%s, which is there: %v, %v", s.ID, s.Found, s.Unknown)
						}
						continue
					}
					if len(s.Unknown) == 0 || s.At.IsZero() || len(s.Found) > 0 != test.keeps {
						t.Fatalf("%s at %s: %v, %v", s.ID, s.At, s.Found, s.Unknown)
					}
					lines := s.Lines()
					if last := lines[len(lines)-1]; !strings.HasPrefix(last, test.unknown) {
						t.Errorf("it says %q, want %q", last, test.unknown)
					}
					want := test.id
					if want == "" {
						want = "dependents:" + s.ID
					}
					if u := s.Unknown[0]; u.ID != want || u.Fix != test.fix {
						t.Errorf("%+v", u)
					}
				}
			})
		})
	}
}

type api func(ctx context.Context, operation string, in, out any) error

func (f api) Call(ctx context.Context, operation string, in, out any) error {
	return f(ctx, operation, in, out)
}

// TestNotLookedAt names the types that the table cannot find.
func TestNotLookedAt(t *testing.T) {
	got := dependents.NotLookedAt()
	for _, want := range []string{"other Regions and accounts", "EBS snapshots", "ECR repositories", "SSM parameters", "CloudWatch log groups"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q does not name %s", got, want)
		}
	}
	if strings.Contains(got, "EBS volumes") {
		t.Errorf("%q names what is looked at", got)
	}
}

// TestByKey counts the resources of two keys at once, by all names of a key.
func TestByKey(t *testing.T) {
	w := newWorld(t)
	other := must(w.keys.CreateKey(t.Context(), &kms.CreateKeyInput{}))(t)
	keys := []string{w.key.ARN, *other.KeyMetadata.Arn}
	put := func(resourceType, id, path, name string) {
		w.aws.AWSConfig().Put(config.Item{Type: resourceType, ID: id, Configuration: atPath(path, name)})
	}
	for i := range 250 {
		put("AWS::EC2::Volume", fmt.Sprint("vol-", i), "configuration.kmsKeyId", w.key.ARN)
	}
	put("AWS::EC2::Volume", "another", "configuration.kmsKeyId", *other.KeyMetadata.Arn)
	put("AWS::EC2::Volume", "foreign", "configuration.kmsKeyId", "arn:aws:kms:us-east-1:999988887777:key/x")
	put("AWS::EC2::Volume", "plain", "configuration.encrypted", "no")
	put("AWS::SQS::Queue", "q1", "configuration.KmsMasterKeyId", "alias/orders")
	put("AWS::SQS::Queue", "q2", "configuration.KmsMasterKeyId", w.key.ID)
	put("AWS::EKS::Cluster", "c", "configuration.EncryptionConfig.Provider.KeyArn", w.key.ARN)
	w.aws.AWSConfig().Put(config.Item{Type: "AWS::RDS::DBInstance", ID: "db", Configuration: map[string]any{"kmsKeyId": w.key.ARN, "performanceInsightsKMSKeyId": w.key.ARN}})
	got := dependents.ByKey(t.Context(), w.reader.Config, keys, w.aliases)
	want := map[string]map[string]int{
		w.key.ARN: {"ebs-volume": 250, "sqs-queue": 2, "eks-cluster": 1, "rds-instance": 1}, keys[1]: {"ebs-volume": 1},
	}
	if d := cmp.Diff(want, got.ByKey); d != "" || got.Why() != "" {
		t.Errorf("%q: %s", got.Why(), d)
	}
	w.aws.AWSConfig().SetRecorder(&config.Recorder{Group: config.AllBut("AWS::SNS::Topic")})
	if got := dependents.ByKey(t.Context(), w.reader.Config, keys, w.aliases); !strings.HasPrefix(got.Why(), "unknown of SNS topics: ") || len(got.ByKey) != 2 {
		t.Errorf("without topics: %q, %v", got.Why(), got.ByKey)
	}
	w.aws.AWSConfig().SetRecorder(nil)
	if got := dependents.ByKey(t.Context(), w.reader.Config, keys, w.aliases); got.Why() != "unknown: AWS Config has no recorder in this Region" {
		t.Errorf("without a recorder: %q", got.Why())
	}
	w.aws.AWSConfig().SetRecorder(&config.Recorder{Group: config.All()})
	w.aws.SetIdentityPolicy(caller, func(action, _ string) bool { return action != "config:SelectResourceConfig" })
	if got := dependents.ByKey(t.Context(), w.reader.Config, keys, w.aliases); !strings.HasPrefix(got.Why(), "unknown: the permission is missing: ") {
		t.Errorf("without the permission: %q", got.Why())
	}
}
