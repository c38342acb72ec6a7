package storage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	kmstypes "github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/awsconfig"
	"github.com/cmkeeper/cmkeeper/internal/awsclient"
	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/config"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/posture"
)

const (
	account, partner, stranger = "111122223333", "222233334444", "999988887777"
	region                     = "eu-central-1"
	keeper                     = "AKIAKEEPER"
)

// world is an account with storage that AWS Config records.
type world struct {
	*testing.T
	aws *localaws.Server
	kms *kms.Client
}

func inWorld(t *testing.T, test func(*world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{T: t, aws: localaws.New(localaws.Options{Account: account, Region: region})}
		defer w.aws.Close()
		w.aws.AddIdentity(keeper, wire.Caller{Type: "IAMUser", ARN: "arn:aws:iam::" + account + ":user/keeper"})
		w.kms = kms.NewFromConfig(inprocess.Config(w.aws, region, "ada"))
		w.aws.AWSConfig().SetRecorder(&config.Recorder{Group: config.All()})
		test(w)
	})
}

func (w *world) read(tags ...string) Look {
	w.Helper()
	cfg := inprocess.Config(w.aws, region, keeper)
	cfg.Retryer = func() aws.Retryer { return aws.NopRetryer{} }
	look, err := Read(w.Context(), awsclient.AWSConfig(cfg), inventory.New(kms.NewFromConfig(cfg), s3.NewFromConfig(cfg), account, region),
		Rules{Keys: posture.Rules{Account: account, TrustedAccounts: []string{partner}}, Region: region, Tags: tags})
	if err != nil {
		w.Fatal(err)
	}
	return look
}

func (w *world) key(tags ...string) string {
	w.Helper()
	in := &kms.CreateKeyInput{}
	for pair := range slices.Chunk(tags, 2) {
		in.Tags = append(in.Tags, kmstypes.Tag{TagKey: &pair[0], TagValue: &pair[1]})
	}
	out, err := w.kms.CreateKey(w.Context(), in)
	if err != nil {
		w.Fatal(err)
	}
	return *out.KeyMetadata.Arn
}

func (w *world) must(_ any, err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) put(kind, id string, configuration any, tags ...string) {
	item := config.Item{Type: typeOfKind(kind), ID: id, Configuration: configuration, Tags: map[string]string{}}
	if item.Type == "" {
		w.Fatalf("%s is no kind", kind)
	}
	for pair := range slices.Chunk(tags, 2) {
		item.Tags[pair[0]] = pair[1]
	}
	w.aws.AWSConfig().Put(item)
}

type object = map[string]any

func found(l Look) map[string]int {
	all := map[string]int{}
	for _, f := range l.Found {
		all[f.Name] = f.Count
	}
	return all
}

// TestRead: a world of which the truth is known.
func TestRead(t *testing.T) {
	inWorld(t, func(w *world) {
		good, disabled, dying := w.key("owner", "web", "classification", "restricted"), w.key(), w.key("owner", "web")
		w.must(w.kms.DisableKey(w.Context(), &kms.DisableKeyInput{KeyId: &disabled}))
		w.must(w.kms.CreateAlias(w.Context(), &kms.CreateAliasInput{AliasName: aws.String("alias/dying"), TargetKeyId: &dying}))
		w.must(w.kms.ScheduleKeyDeletion(w.Context(), &kms.ScheduleKeyDeletionInput{KeyId: &dying}))
		keyOf := func(account string) string {
			return "arn:aws:kms:" + region + ":" + account + ":key/1b2c3d4e-0000-4000-8000-000000000001"
		}
		id := func(arn string) string { return arn[strings.LastIndexByte(arn, '/')+1:] }

		for n := range 130 { // more than a page
			w.put("ebs-volume", fmt.Sprintf("vol-plain-%03d", n), object{"encrypted": false})
		}
		w.put("ebs-volume", "vol-good", object{"encrypted": true, "kmsKeyId": good}, "owner", "web")
		w.put("ebs-volume", "vol-other", object{"encrypted": true, "kmsKeyId": good}, "owner", "shop", "classification", "public")
		w.put("ebs-volume", "vol-untagged", object{"encrypted": true, "kmsKeyId": good}, "Owner", "shop")
		w.put("ebs-volume", "vol-disabled", object{"encrypted": true, "kmsKeyId": disabled}, "owner", "shop") // its key has no owner
		w.put("rds-instance", "db-plain", object{"storageEncrypted": false})
		w.put("rds-instance", "db-insights", object{"storageEncrypted": true, "kmsKeyId": good, "performanceInsightsKMSKeyId": id(disabled)})
		w.put("rds-snapshot", "snapshot-unknown", object{"kmsKeyId": ""}) // says nothing
		w.put("sqs-queue", "q-managed", object{"KmsMasterKeyId": "alias/aws/sqs"})
		w.put("sqs-queue", "q-dying", object{"KmsMasterKeyId": "alias/dying"}, "owner", "shop")
		w.put("sqs-queue", "q-gone-alias", object{"KmsMasterKeyId": "alias/gone"})
		w.put("sqs-queue", "q-none", object{})
		w.put("sns-topic", "t-stranger", object{"KmsMasterKeyId": keyOf(stranger)})
		w.put("sns-topic", "t-partner", object{"KmsMasterKeyId": keyOf(partner)})
		w.put("redshift-cluster", "owned", object{"encrypted": true, "kmsKeyId": "AWS_OWNED_KMS_KEY"})
		w.put("secret", "s-gone", object{"KMSKeyId": keyOf(account)})
		w.put("eks-cluster", "eks", object{"EncryptionConfig": []object{{"Provider": object{"KeyArn": good}}, {"Provider": object{"KeyArn": disabled}}}})

		look := w.read("owner", "classification")
		want := map[string]int{
			"storage/unencrypted/ebs-volume": 130, "storage/unencrypted/rds-instance": 1,
			"storage/unusable-key/ebs-volume": 1, "storage/unusable-key/rds-instance": 1, "storage/unusable-key/sqs-queue": 2, "storage/unusable-key/secret": 1, "storage/unusable-key/eks-cluster": 1,
			"storage/foreign-key/sns-topic":         1,
			"storage/tag/owner/ebs-volume":          1,
			"storage/tag/owner/sqs-queue":           1,
			"storage/tag/classification/ebs-volume": 1,
		}
		if diff := cmp.Diff(want, found(look)); diff != "" {
			t.Errorf("found (-want +got):\n%s", diff)
		}
		if gaps := look.Gaps(); len(gaps) > 0 || look.Nothing() {
			t.Errorf("not looked at: %q", gaps)
		}
		if look.Found[0].Rule != Foreign || look.Found[len(look.Found)-1].Rule != OtherTag {
			t.Errorf("the gravest is %s, the least %s", look.Found[0].Name, look.Found[len(look.Found)-1].Name)
		}
		for _, f := range look.Found {
			texts := strings.Join(f.Examples, "\n")
			if len(f.Examples) != min(f.Count, maxExamples) {
				t.Errorf("%s has %d examples of %d", f.Name, len(f.Examples), f.Count)
			}
			for name, says := range map[string]string{
				"storage/unusable-key/ebs-volume": "EBS volume vol-disabled under " + disabled + ", which is in state Disabled",
				"storage/unusable-key/secret":     "s-gone under " + keyOf(account) + ", which does not exist",
				"storage/foreign-key/sns-topic":   "t-stranger under " + keyOf(stranger) + ", a key of account " + stranger,
				"storage/tag/owner/ebs-volume":    "EBS volume vol-other has owner=shop, and its key " + good + " has web",
			} {
				if f.Name == name && !strings.Contains(texts, says) {
					t.Errorf("%s does not say %q:\n%s", name, says, texts)
				}
			}
		}
		if diff := cmp.Diff(8, len(found(w.read()))); diff != "" {
			t.Errorf("without tags to match (-want +got):\n%s", diff)
		}
	})
}

// TestWhatIsNotLookedAt: what AWS Config or KMS does not answer is said, and no danger of it
// is over or absent.
func TestWhatIsNotLookedAt(t *testing.T) {
	const plain, tagged, foreign = "storage/unencrypted/ebs-volume", "storage/tag/owner/ebs-volume", "storage/foreign-key/ebs-volume"
	const unusable, topics, queueTags = "storage/unusable-key/ebs-volume", "storage/unusable-key/sns-topic", "storage/tag/owner/sqs-queue"
	all := []string{plain, unusable, foreign, tagged, topics, queueTags}
	deny := func(action string) func(*world) {
		return func(w *world) {
			w.aws.SetIdentityPolicy(keeper, func(asked, _ string) bool { return asked != action })
		}
	}
	for name, tt := range map[string]struct {
		breaks func(*world)
		// not are the names that are not looked at, says what is said of it.
		not     []string
		says    string
		nothing bool
	}{
		"all is well": {func(*world) {}, nil, "", false},
		"no recorder": {func(w *world) { w.aws.AWSConfig().SetRecorder(nil) }, all, "has no recorder", true},
		"a stopped recorder": {func(w *world) {
			w.aws.AWSConfig().SetRecorder(&config.Recorder{Group: config.All(), Stopped: time.Now()})
		}, all, "has not run since", true},
		"a failing recorder": {func(w *world) {
			w.aws.AWSConfig().SetRecorder(&config.Recorder{Group: config.All(), LastError: "AccessDenied"})
		}, all, "fails with AccessDenied", true},
		"volumes are not recorded": {func(w *world) {
			w.aws.AWSConfig().SetRecorder(&config.Recorder{Group: config.AllBut("AWS::EC2::Volume")})
		}, []string{plain, unusable, foreign, tagged}, "EBS volume: the recorder", false},
		"volumes alone are recorded": {func(w *world) {
			w.aws.AWSConfig().SetRecorder(&config.Recorder{Group: config.Only("AWS::EC2::Volume")})
		}, []string{topics, queueTags}, "does not record", false},
		"the recorder may not be read": {deny("config:DescribeConfigurationRecorders"), all, "config:DescribeConfigurationRecorders", true},
		"its status may not be read":   {deny("config:DescribeConfigurationRecorderStatus"), all, "config:DescribeConfigurationRecorderStatus", true},
		"no query is allowed":          {deny("config:SelectResourceConfig"), all, "config:SelectResourceConfig", true},
		"keys may not be described":    {deny("kms:DescribeKey"), []string{unusable}, "kms:DescribeKey", false},
		"tags may not be read":         {deny("kms:ListResourceTags"), []string{tagged}, "kms:ListResourceTags", false},
		"one query fails": {func(w *world) {
			w.aws.SetFaults(localaws.Fault{Service: "config", Operations: []string{"SelectResourceConfig"}, Effect: localaws.FailBefore, Count: 1})
		}, []string{plain}, "unencrypted/ebs-volume: ", false},
		"a key of another Region": {func(w *world) {
			w.put("sns-topic", "far", object{"KmsMasterKeyId": "arn:aws:kms:us-east-1:" + account + ":key/1b2c3d4e-0000-4000-8000-000000000001"})
		}, []string{topics}, "Region us-east-1", false},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				key := w.key("owner", "web")
				w.put("ebs-volume", "vol", object{"encrypted": true, "kmsKeyId": key}, "owner", "web")
				tt.breaks(w)
				look := w.read("owner")
				var not []string
				for _, name := range all {
					if !look.Looked(name) {
						not = append(not, name)
					}
				}
				if diff := cmp.Diff(tt.not, not); diff != "" {
					t.Errorf("not looked at (-want +got):\n%s", diff)
				}
				gaps := strings.Join(look.Gaps(), "\n")
				if !strings.Contains(gaps, tt.says) || (gaps == "") != (tt.says == "") || look.Nothing() != tt.nothing {
					t.Errorf("it says %q, nothing: %v", gaps, look.Nothing())
				}
				if len(look.Gaps()) > 3 || len(gaps) > 1000 {
					t.Errorf("the reasons are not brief:\n%s", gaps)
				}
				if len(look.Found) > 0 {
					t.Errorf("found %v", found(look))
				}
			})
		})
	}
}

func TestReadEnds(t *testing.T) {
	inWorld(t, func(w *world) {
		ctx, cancel := context.WithCancel(w.Context())
		cancel()
		cfg := inprocess.Config(w.aws, region, keeper)
		if _, err := Read(ctx, awsclient.AWSConfig(cfg), inventory.New(w.kms, nil, account, region), Rules{}); !errors.Is(err, context.Canceled) {
			t.Errorf("the error is %v", err)
		}
	})
}

func TestKeys(t *testing.T) {
	const id = "1b2c3d4e-0000-4000-8000-000000000001"
	rules := Rules{Keys: posture.Rules{Account: account, TrustedAccounts: []string{partner}}, Region: region}
	for name, want := range map[string]struct {
		rule    Rule
		asked   bool
		unknown bool
	}{
		id:                                     {"", true, false},
		"mrk-00000000000000000000000000000001": {"", true, false},
		"alias/app":                            {"", true, false},
		"alias/aws/ebs":                        {"", false, false},
		"AWS_OWNED_KMS_KEY":                    {"", false, false},
		"arn:aws:kms:" + region + ":" + account + ":key/" + id:         {"", true, false},
		"arn:aws:kms:" + region + ":" + account + ":alias/app":         {"", true, false},
		"arn:aws:kms:" + region + ":" + account + ":alias/aws/sns":     {"", false, false},
		"arn:aws:kms:" + region + ":" + partner + ":key/" + id:         {"", false, false},
		"arn:aws:kms:" + region + ":" + stranger + ":key/" + id:        {Foreign, false, false},
		"arn:aws:kms:us-east-1:" + account + ":key/" + id:              {"", false, true},
		"arn:aws:secretsmanager:" + region + ":" + account + ":secret": {"", false, false},
	} {
		if u, ok := rules.byName(name); u.rule != want.rule || ok == want.asked || (u.unknown != "") != want.unknown {
			t.Errorf("%s: %+v, %v", name, u, ok)
		}
	}
	for name, tt := range map[string]struct {
		key     inventory.Key
		err     error
		rule    Rule
		known   bool
		hasTags bool
	}{
		"enabled":       {inventory.Key{ARN: "k", Manager: "CUSTOMER", State: "Enabled"}, nil, "", true, true},
		"disabled":      {inventory.Key{ARN: "k", Manager: "CUSTOMER", State: "Disabled"}, nil, Unusable, true, true},
		"dying":         {inventory.Key{ARN: "k", Manager: "CUSTOMER", State: "PendingDeletion"}, nil, Unusable, true, true},
		"unavailable":   {inventory.Key{ARN: "k", Manager: "CUSTOMER", State: "Unavailable"}, nil, Unusable, true, true},
		"being created": {inventory.Key{ARN: "k", Manager: "CUSTOMER", State: "Creating"}, nil, "", true, true},
		"of AWS":        {inventory.Key{ARN: "k", Manager: "AWS", State: "Enabled"}, nil, "", true, false},
		"gone":          {inventory.Key{}, inventory.ErrNotFound, Unusable, true, false},
		"denied":        {inventory.Key{}, inventory.ErrAccessDenied, "", false, false},
		"throttled":     {inventory.Key{}, errors.New("ThrottlingException"), "", false, false},
	} {
		if u := byKey(tt.key, tt.err); u.rule != tt.rule || (u.unknown == "") != tt.known || (u.arn != "") != tt.hasTags {
			t.Errorf("%s: %+v", name, u)
		}
	}
}

// manyVolumes is AWS Config with very many volumes under one key, made page by page.
type manyVolumes struct {
	volumes, pages int
	// heap is how much was in use at the second page, and at the last.
	heap [2]uint64
}

func (m *manyVolumes) Call(_ context.Context, operation string, in, out any) error {
	request, err := json.Marshal(in)
	if err != nil {
		return err
	}
	var of struct{ Expression, NextToken string }
	answer := object{}
	switch err := json.Unmarshal(request, &of); {
	case err != nil:
		return err
	case operation == "DescribeConfigurationRecorders":
		answer["ConfigurationRecorders"] = []object{{"name": "default", "recordingGroup": object{"resourceTypes": []string{"AWS::EC2::Volume"}}}}
	case operation == "DescribeConfigurationRecorderStatus":
		answer["ConfigurationRecordersStatus"] = []object{{"name": "default", "recording": true}}
	case strings.Contains(of.Expression, "SELECT resourceId, resourceName, tags, "):
		first := 0
		_, _ = fmt.Sscan(of.NextToken, &first)
		last := min(first+awsconfig.PageSize, m.volumes)
		if last < m.volumes {
			answer["NextToken"] = fmt.Sprint(last)
		}
		var rows []string
		for n := first; n < last; n++ {
			rows = append(rows, fmt.Sprintf(`{"resourceId":"vol-%08d","tags":[{"key":"owner","value":"shop-%d"}],"configuration":{"kmsKeyId":"alias/app"}}`, n, n))
		}
		answer["Results"] = rows
		if m.pages++; m.pages == 2 || m.pages == mostPages {
			runtime.GC()
			var s runtime.MemStats
			runtime.ReadMemStats(&s)
			m.heap[min(m.pages-2, 1)] = s.HeapAlloc
		}
	}
	text, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, out)
}

type oneKey struct{ asked int }

func (k *oneKey) Key(context.Context, string) (inventory.Key, error) {
	k.asked++
	return inventory.Key{ARN: "arn:aws:kms:" + region + ":" + account + ":key/k", Manager: "CUSTOMER", State: "Enabled"}, nil
}

func (k *oneKey) Tags(context.Context, string) (map[string]string, error) {
	k.asked++
	return map[string]string{"owner": "web"}, nil
}

// TestManyResources: of 100,000 resources nothing is kept but their number and a few
// examples, and their key is asked about once. Of more it is said that they were not looked at.
func TestManyResources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api, keys := &manyVolumes{volumes: 100_001}, &oneKey{}
		look, err := Read(t.Context(), api, keys, Rules{Keys: posture.Rules{Account: account}, Region: region, Tags: []string{"owner"}})
		if err != nil {
			t.Fatal(err)
		}
		if len(look.Found) != 1 || look.Found[0].Count != 100_000 || len(look.Found[0].Examples) != maxExamples || keys.asked != 2 || api.pages != 1000 {
			t.Errorf("%d requests for pages, %d about the key, found: %+v", api.pages, keys.asked, look.Found)
		}
		if look.Looked("storage/tag/owner/ebs-volume") {
			t.Error("more than is looked at counts as looked at")
		}
		const most = 1 << 20
		if grown := int64(api.heap[1]) - int64(api.heap[0]); grown > most {
			t.Errorf("the heap grew by %d bytes", grown)
		}
	})
}
