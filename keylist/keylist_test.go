package keylist_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/internal/awsclient"
	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/config"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/judgement"
	"github.com/cmkeeper/cmkeeper/keylist"
	"github.com/cmkeeper/cmkeeper/posture"
)

const (
	account = "111122223333"
	region  = "eu-central-1"
	foreign = "arn:aws:iam::999988887777:role/visitor"
)

// world is an account whose keys are made and read back through the SDK's client.
type world struct {
	*testing.T
	aws       *localaws.Server
	kms       *kms.Client
	s3        *s3.Client
	open      string           // a key policy that lets everybody decrypt
	byDefault map[string][]any // buckets by the key that they encrypt with
}

func newWorld(t *testing.T) *world {
	server := localaws.New(localaws.Options{Account: account, Region: region})
	t.Cleanup(server.Close)
	cfg := inprocess.Config(server, region, "ada")
	own := `{"Sid":"own","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::` + account + `:root"},"Action":"kms:*","Resource":"*"}`
	return &world{
		t, server, kms.NewFromConfig(cfg), s3.NewFromConfig(cfg, func(o *s3.Options) { o.UsePathStyle = true }),
		`{"Statement":[` + own + `,{"Sid":"all","Effect":"Allow","Principal":"*","Action":"kms:Decrypt","Resource":"*"}]}`,
		nil,
	}
}

// options are those of somebody whose access key is given.
func (w *world) options(accessKey string) keylist.Options {
	cfg := inprocess.Config(w.aws, region, accessKey)
	return keylist.Options{
		Facts: inventory.New(kms.NewFromConfig(cfg), s3.NewFromConfig(cfg, func(o *s3.Options) { o.UsePathStyle = true }), account, region),
		Share: 0.25, Account: account, Region: region, Rules: posture.Rules{Account: account, RotationPeriodDays: 365, RotationRequired: true},
	}
}

func (w *world) list(o keylist.Options) keylist.List {
	w.Helper()
	l, err := keylist.New(w.Context(), o)
	if err != nil {
		w.Fatal(err)
	}
	return l
}

func do[In, Out any](w *world, call func(context.Context, *In, ...func(*kms.Options)) (Out, error), in In) Out {
	w.Helper()
	out, err := call(w.Context(), &in)
	if err != nil {
		w.Fatal(err)
	}
	return out
}

func (w *world) key(in kms.CreateKeyInput) string {
	w.Helper()
	return *do(w, w.kms.CreateKey, in).KeyMetadata.Arn
}

func (w *world) alias(name, key string) {
	w.Helper()
	do(w, w.kms.CreateAlias, kms.CreateAliasInput{AliasName: &name, TargetKeyId: &key})
}

func (w *world) bucket(name, key string) {
	w.Helper()
	if _, err := w.s3.CreateBucket(w.Context(), &s3.CreateBucketInput{Bucket: &name, CreateBucketConfiguration: &s3types.CreateBucketConfiguration{LocationConstraint: region}}); err != nil {
		w.Fatal(err)
	}
	byDefault := &s3types.ServerSideEncryptionByDefault{SSEAlgorithm: s3types.ServerSideEncryptionAwsKms, KMSMasterKeyID: &key}
	if key == "" {
		byDefault.KMSMasterKeyID = nil
	}
	if _, err := w.s3.PutBucketEncryption(w.Context(), &s3.PutBucketEncryptionInput{Bucket: &name, ServerSideEncryptionConfiguration: &s3types.ServerSideEncryptionConfiguration{
		Rules: []s3types.ServerSideEncryptionRule{{ApplyServerSideEncryptionByDefault: byDefault}},
	}}); err != nil {
		w.Fatal(err)
	}
}

func (w *world) grant(key, to string) {
	w.Helper()
	do(w, w.kms.CreateGrant, kms.CreateGrantInput{KeyId: &key, GranteePrincipal: &to, Operations: []types.GrantOperation{types.GrantOperationDecrypt}})
}

// importMaterial gives a key material that expires within ten days.
func (w *world) importMaterial(key string) {
	w.Helper()
	parameters := do(w, w.kms.GetParametersForImport, kms.GetParametersForImportInput{
		KeyId: &key, WrappingAlgorithm: types.AlgorithmSpecRsaesOaepSha256, WrappingKeySpec: types.WrappingKeySpecRsa2048,
	})
	public, err := x509.ParsePKIXPublicKey(parameters.PublicKey)
	if err != nil {
		w.Fatal(err)
	}
	wrapped, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, public.(*rsa.PublicKey), bytes.Repeat([]byte{7}, 32), nil)
	if err != nil {
		w.Fatal(err)
	}
	do(w, w.kms.ImportKeyMaterial, kms.ImportKeyMaterialInput{
		KeyId: &key, ImportToken: parameters.ImportToken, EncryptedKeyMaterial: wrapped, ValidTo: aws.Time(time.Now().Add(10 * 24 * time.Hour)),
	})
}

func (w *world) rotating(key string, period int32) {
	w.Helper()
	do(w, w.kms.EnableKeyRotation, kms.EnableKeyRotationInput{KeyId: &key, RotationPeriodInDays: &period})
}

// kinds are the kinds of keys: how each is made, and the names and severities of its
// dangers.
var kinds = []struct {
	name    string
	make    func(w *world, i int) string
	dangers []string
}{
	{"rotating", func(w *world, i int) string {
		key := w.key(kms.CreateKeyInput{Description: aws.String(fmt.Sprintf("key %d", i))})
		w.rotating(key, 90+int32(i%270))
		w.alias(fmt.Sprintf("alias/app-%d", i), key)
		return key
	}, nil},
	{"rotated on demand", func(w *world, _ int) string {
		key := w.key(kms.CreateKeyInput{})
		w.rotating(key, 365)
		do(w, w.kms.RotateKeyOnDemand, kms.RotateKeyOnDemandInput{KeyId: &key})
		return key
	}, nil},
	{"not rotating", func(w *world, _ int) string { return w.key(kms.CreateKeyInput{}) }, []string{"medium rotation"}},
	{"slow", func(w *world, _ int) string {
		key := w.key(kms.CreateKeyInput{})
		w.rotating(key, 400)
		return key
	}, []string{"medium rotation"}},
	{"RSA", func(w *world, _ int) string {
		return w.key(kms.CreateKeyInput{KeySpec: types.KeySpecRsa2048, KeyUsage: types.KeyUsageTypeSignVerify})
	}, nil},
	{"HMAC", func(w *world, _ int) string {
		return w.key(kms.CreateKeyInput{KeySpec: types.KeySpecHmac256, KeyUsage: types.KeyUsageTypeGenerateVerifyMac})
	}, nil},
	{"primary", func(w *world, _ int) string {
		key := w.key(kms.CreateKeyInput{MultiRegion: aws.Bool(true)})
		do(w, w.kms.ReplicateKey, kms.ReplicateKeyInput{KeyId: &key, ReplicaRegion: aws.String("us-west-2")})
		w.rotating(key, 365)
		return key
	}, nil},
	{"without material", func(w *world, _ int) string { return w.key(kms.CreateKeyInput{Origin: types.OriginTypeExternal}) }, []string{"high material"}},
	{"disabled with alias", func(w *world, i int) string {
		key := w.key(kms.CreateKeyInput{})
		w.rotating(key, 365)
		w.alias(fmt.Sprintf("alias/disabled-%d", i), key)
		w.alias(fmt.Sprintf("alias/also-%d", i), key)
		do(w, w.kms.DisableKey, kms.DisableKeyInput{KeyId: &key})
		return key
	}, []string{"high disabled"}},
	{"dying", func(w *world, _ int) string {
		key := w.key(kms.CreateKeyInput{})
		do(w, w.kms.ScheduleKeyDeletion, kms.ScheduleKeyDeletionInput{KeyId: &key, PendingWindowInDays: aws.Int32(9)})
		return key
	}, []string{"critical deletion"}},
	{"open", func(w *world, _ int) string {
		key := w.key(kms.CreateKeyInput{Policy: &w.open})
		w.rotating(key, 365)
		return key
	}, []string{"critical policy"}},
	{"granted", func(w *world, i int) string {
		key := w.key(kms.CreateKeyInput{})
		w.rotating(key, 365)
		w.grant(key, "arn:aws:iam::"+account+":role/app")
		for range i % 3 {
			w.grant(key, foreign)
		}
		return key
	}, nil}, // by i%3
	{"tagged, of buckets", func(w *world, i int) string {
		key := w.key(kms.CreateKeyInput{Tags: []types.Tag{{TagKey: aws.String("env"), TagValue: aws.String(fmt.Sprintf("test-%d", i%2))}}})
		w.rotating(key, 365)
		w.bucket(fmt.Sprintf("data-%d", i), key)
		return key
	}, nil},
}

// TestKeysAreLiveState lists 500 keys of every kind, and reads all of it back through the
// SDK's client alone. Exactly that is listed, within a share of KMS's quotas.
func TestKeysAreLiveState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		want := map[string][]string{} // dangers by key
		for i := range 497 {
			kind := kinds[i%len(kinds)]
			key := kind.make(w, i)
			want[key] = kind.dangers
			for range i % 3 {
				if kind.name == "granted" {
					want[key] = append(want[key], "high grant")
				}
			}
		}
		imported := w.key(kms.CreateKeyInput{Origin: types.OriginTypeExternal})
		w.importMaterial(imported)
		want[imported] = []string{"high expiry"}
		want[w.storeKey()] = nil
		w.bucket("under-aws-managed", "")
		if _, err := w.s3.PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String("under-aws-managed"), Key: aws.String("x"), Body: strings.NewReader("x")}); err != nil {
			t.Fatal(err)
		}
		managed := *do(w, w.kms.DescribeKey, kms.DescribeKeyInput{KeyId: aws.String("alias/aws/s3")}).KeyMetadata.Arn
		want[managed] = nil
		time.Sleep(36 * time.Hour)

		requests := w.aws.Requests("kms", "ListGrants")
		w.aws.SetFaults(quarterOfQuotas()...)
		throttled := w.countThrottled()
		o := w.options("ada")
		o.Tags = true
		var seen []int
		o.Seen = func(n int) { seen = append(seen, n) }
		l := w.list(o)
		if len(seen) != 500 || seen[499] != 500 {
			t.Errorf("%d keys were seen", len(seen))
		}
		if n := throttled(); n > 0 {
			t.Errorf("%d requests were more than a quarter of KMS's quotas", n)
		}
		if n := w.aws.Requests("kms", "ListGrants") - requests; n != 499 {
			t.Errorf("%d requests for grants", n)
		}
		w.aws.SetFaults()
		if len(l.Keys) != 500 || len(want) != 500 {
			t.Fatalf("%d keys of %d", len(l.Keys), len(want))
		}
		document, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		var decoded struct{ Keys []map[string]any }
		if err := json.Unmarshal(document, &decoded); err != nil {
			t.Fatal(err)
		}
		for _, k := range decoded.Keys {
			arn := k["arn"].(string)
			if d := cmp.Diff(w.live(arn), stripped(k)); d != "" {
				t.Fatalf("%s (-live +listed):\n%s", arn, d)
			}
			if d := cmp.Diff(want[arn], dangersOf(k)); d != "" {
				t.Errorf("%s (-want +got):\n%s", arn, d)
			}
		}
		if last := l.Keys[len(l.Keys)-1]; last.ARN != managed {
			t.Errorf("the last one is %s", last.ARN)
		}
		w.checkTotals(l, decoded.Keys)
	})
}

// quarterOfQuotas throttle at a quarter of what KMS allows.
func quarterOfQuotas() []localaws.Fault {
	faults := localaws.KMSQuotas()
	for i := range faults {
		faults[i].Rate /= 4
	}
	return faults
}

// countThrottled counts requests beyond those that a call makes when nothing fails: every
// throttled one is sent again.
func (w *world) countThrottled() func() int {
	var mu sync.Mutex
	seen := map[string]int{}
	stop := w.aws.Observe(func(r localaws.Request) {
		mu.Lock()
		defer mu.Unlock()
		if r.Service == "kms" {
			seen[r.Operation]++
		}
	})
	return func() (n int) {
		stop()
		for operation, most := range map[string]int{"DescribeKey": 500, "GetKeyPolicy": 499, "ListGrants": 499, "ListResourceTags": 499} {
			n += max(0, seen[operation]-most)
		}
		return n
	}
}

func (w *world) storeKey() string {
	store := do(w, w.kms.CreateCustomKeyStore, kms.CreateCustomKeyStoreInput{
		CustomKeyStoreName: aws.String("vault"), CloudHsmClusterId: aws.String("cluster-1"), KeyStorePassword: aws.String("open sesame"), TrustAnchorCertificate: aws.String("certificate"),
	}).CustomKeyStoreId
	do(w, w.kms.ConnectCustomKeyStore, kms.ConnectCustomKeyStoreInput{CustomKeyStoreId: store})
	return w.key(kms.CreateKeyInput{Origin: types.OriginTypeAwsCloudhsm, CustomKeyStoreId: store})
}

// stripped is a listed key without times of reading and without judgement.
func stripped(k map[string]any) map[string]any {
	out := maps.Clone(k)
	for _, name := range []string{"described", "dangers", "worst", "judged", "age_days"} {
		delete(out, name)
	}
	for name, value := range out {
		if part, ok := value.(map[string]any); ok {
			part = maps.Clone(part)
			delete(part, "read_at")
			delete(part, "worst")
			delete(part, "findings")
			out[name] = part
		}
	}
	return out
}

func dangersOf(k map[string]any) (all []string) {
	for _, d := range k["dangers"].([]any) {
		d := d.(map[string]any)
		name, _, _ := strings.Cut(d["name"].(string), "/")
		all = append(all, d["severity"].(string)+" "+name)
	}
	return all
}

// live reads a key back through the SDK's client, as stripped leaves it.
func (w *world) live(arn string) map[string]any {
	w.Helper()
	m := do(w, w.kms.DescribeKey, kms.DescribeKeyInput{KeyId: &arn}).KeyMetadata
	out := map[string]any{
		"arn": arn, "id": *m.KeyId, "state": string(m.KeyState), "manager": string(m.KeyManager), "origin": string(m.Origin),
		"spec": string(m.KeySpec), "usage": string(m.KeyUsage), "created": m.CreationDate.UTC().Format(time.RFC3339Nano),
		"buckets": map[string]any{}, "last_use": map[string]any{"not_known": keylist.NotAsked},
	}
	optional := func(name string, value *string) {
		if value != nil && *value != "" {
			out[name] = *value
		}
	}
	at := func(to map[string]any, name string, value *time.Time) {
		if value != nil {
			to[name] = value.UTC().Format(time.RFC3339Nano)
		}
	}
	optional("description", m.Description)
	optional("key_store", m.CustomKeyStoreId)
	at(out, "deletion_date", m.DeletionDate)
	at(out, "material_expires", m.ValidTo)
	if c := m.MultiRegionConfiguration; c != nil {
		out["multi_region"], out["primary"] = string(c.MultiRegionKeyType), *c.PrimaryKey.Arn
		var replicas []any
		for _, r := range c.ReplicaKeys {
			replicas = append(replicas, *r.Arn)
		}
		out["replicas"] = replicas
	}
	aliases := []any{}
	for _, a := range do(w, w.kms.ListAliases, kms.ListAliasesInput{KeyId: &arn}).Aliases {
		aliases = append(aliases, *a.AliasName)
	}
	slices.SortFunc(aliases, func(a, b any) int { return strings.Compare(a.(string), b.(string)) })
	out["aliases"] = aliases
	if names := w.bucketsOf(arn); len(names) > 0 {
		out["buckets"] = map[string]any{"names": names, "bucket_keys_off": names} // TestBucketKeys switches them on
	}
	if m.KeyManager == types.KeyManagerTypeAws {
		none := map[string]any{"not_known": keylist.AWSManages}
		out["policy"], out["tags"], out["last_use"] = none, none, none
		out["grants"], out["rotation"] = map[string]any{"not_known": keylist.AWSManages, "count": 0.0}, map[string]any{"blocker": "aws-managed"}
		return out
	}
	out["rotation"] = w.liveRotation(m)
	out["policy"] = map[string]any{}
	grants := map[string]any{"count": 0.0}
	var outside []any
	for _, g := range do(w, w.kms.ListGrants, kms.ListGrantsInput{KeyId: &arn}).Grants {
		grants["count"] = grants["count"].(float64) + 1
		if *g.GranteePrincipal == foreign {
			outside = append(outside, map[string]any{"id": *g.GrantId, "grantee": foreign, "operations": []any{"Decrypt"}})
		}
	}
	if outside != nil {
		grants["outside"] = outside
	}
	out["grants"] = grants
	tags := map[string]any{}
	for _, t := range do(w, w.kms.ListResourceTags, kms.ListResourceTagsInput{KeyId: &arn}).Tags {
		tags[*t.TagKey] = *t.TagValue
	}
	out["tags"] = map[string]any{}
	if len(tags) > 0 {
		out["tags"] = map[string]any{"values": tags}
	}
	return out
}

func (w *world) liveRotation(m *types.KeyMetadata) map[string]any {
	r := map[string]any{}
	switch {
	case strings.HasPrefix(string(m.KeySpec), "HMAC"):
		r["blocker"] = "hmac"
	case m.KeySpec != types.KeySpecSymmetricDefault:
		r["blocker"] = "asymmetric"
	case m.CustomKeyStoreId != nil:
		r["blocker"] = "custom-key-store"
	case m.Origin == types.OriginTypeExternal:
		r["blocker"] = "imported"
	case m.KeyState == types.KeyStatePendingDeletion:
		r["blocker"] = "pending-deletion"
	case m.KeyState == types.KeyStateDisabled:
		r["blocker"] = "disabled"
	}
	if r["blocker"] != nil && r["blocker"] != "disabled" {
		return r
	}
	status := do(w, w.kms.GetKeyRotationStatus, kms.GetKeyRotationStatusInput{KeyId: m.Arn})
	r["enabled"] = status.KeyRotationEnabled
	if status.RotationPeriodInDays != nil {
		r["period_days"] = float64(*status.RotationPeriodInDays)
	}
	if status.NextRotationDate != nil {
		r["next"] = status.NextRotationDate.UTC().Format(time.RFC3339Nano)
	}
	if all := do(w, w.kms.ListKeyRotations, kms.ListKeyRotationsInput{KeyId: m.Arn}).Rotations; len(all) > 0 {
		r["last"] = all[len(all)-1].RotationDate.UTC().Format(time.RFC3339Nano)
	}
	return r
}

func (w *world) bucketsOf(arn string) (names []any) {
	w.Helper()
	if w.byDefault == nil {
		w.byDefault = map[string][]any{}
		all, err := w.s3.ListBuckets(w.Context(), &s3.ListBucketsInput{})
		if err != nil {
			w.Fatal(err)
		}
		for _, b := range all.Buckets {
			out, err := w.s3.GetBucketEncryption(w.Context(), &s3.GetBucketEncryptionInput{Bucket: b.Name})
			if err != nil {
				w.Fatal(err)
			}
			key := aws.ToString(out.ServerSideEncryptionConfiguration.Rules[0].ApplyServerSideEncryptionByDefault.KMSMasterKeyID)
			w.byDefault[key] = append(w.byDefault[key], *b.Name)
		}
	}
	return w.byDefault[arn]
}

// checkTotals counts the keys again, from the JSON.
func (w *world) checkTotals(l keylist.List, keys []map[string]any) {
	w.Helper()
	states, worst, open := map[string]int{}, map[string]int{}, map[string]int{}
	var customer, on, off, clean, cannot int
	for _, k := range keys {
		if k["manager"] != "CUSTOMER" {
			continue
		}
		customer++
		states[k["state"].(string)]++
		if s, ok := k["worst"].(string); ok {
			worst[s]++
		} else {
			clean++
		}
		for _, d := range k["dangers"].([]any) {
			open[d.(map[string]any)["severity"].(string)]++
		}
		switch r := k["rotation"].(map[string]any); {
		case r["blocker"] != nil:
			cannot++
		case r["enabled"] == true:
			on++
		default:
			off++
		}
	}
	t := l.Totals
	sum := 0
	for _, n := range t.Rotation.Cannot {
		sum += n
	}
	got := []any{t.Customer, t.AWS, t.ByState, bySeverity(t.ByWorst), t.Clean, bySeverity(t.Open), t.Rotation.On, t.Rotation.Off, sum, t.NotJudged, t.NotDescribed, t.Rotation.NotKnown}
	want := []any{customer, len(keys) - customer, states, worst, clean, open, on, off, cannot, 0, 0, 0}
	if d := cmp.Diff(want, got); d != "" {
		w.Errorf("totals (-counted +listed):\n%s", d)
	}
}

func bySeverity[S ~string](m map[S]int) map[string]int {
	out := map[string]int{}
	for s, n := range m {
		out[string(s)] = n
	}
	return out
}

// names are the first alias, or else the description, of listed keys.
func names(l keylist.List) (all []string) {
	for _, k := range l.Keys {
		name := k.Description
		if len(k.Aliases) > 0 {
			name = k.Aliases[0]
		}
		all = append(all, name)
	}
	return all
}

// TestOrderAndFilters lists a few keys.
func TestOrderAndFilters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		make := func(alias, team string, policy *string, change func(key string)) string {
			key := w.key(kms.CreateKeyInput{Policy: policy, Tags: []types.Tag{{TagKey: aws.String("team"), TagValue: &team}}})
			w.rotating(key, 365)
			w.alias("alias/"+alias, key)
			if change != nil {
				change(key)
			}
			return key
		}
		use := func(key string) { do(w, w.kms.Encrypt, kms.EncryptInput{KeyId: &key, Plaintext: []byte("x")}) }
		used := make("b-used", "blue", nil, use)
		open := make("a-open", "red", &w.open, use)
		make("c-unused", "blue", nil, nil)
		make("d-disabled", "red", nil, func(key string) { do(w, w.kms.DisableKey, kms.DisableKeyInput{KeyId: &key}) })
		shut := make("e-unread", "blue", nil, nil)
		w.aws.SetIdentityPolicy("bob", func(action, resource string) bool {
			return resource != shut || action == "kms:DescribeKey" || action == "kms:ListGrants"
		})
		time.Sleep(100 * 24 * time.Hour)
		use(used)

		o := func(change func(*keylist.Options)) keylist.Options {
			o := w.options("bob")
			change(&o)
			return o
		}
		for name, tt := range map[string]struct {
			options  keylist.Options
			want     []string
			notKnown string
		}{
			"all":               {o(func(*keylist.Options) {}), []string{"alias/a-open", "alias/d-disabled", "alias/e-unread", "alias/b-used", "alias/c-unused"}, ""},
			"bad":               {o(func(o *keylist.Options) { o.Bad = true }), []string{"alias/a-open", "alias/d-disabled", "alias/e-unread"}, ""},
			"alias":             {o(func(o *keylist.Options) { o.Alias = "alias/*used" }), []string{"alias/b-used", "alias/c-unused"}, ""},
			"tag":               {o(func(o *keylist.Options) { o.TagName, o.TagValue = "team", "b*" }), []string{"alias/b-used", "alias/c-unused"}, "tags of 1 keys, which are left out: "},
			"unused":            {o(func(o *keylist.Options) { o.Unused = 90 * 24 * time.Hour }), []string{"alias/a-open", "alias/d-disabled", "alias/c-unused"}, "last use of 1 keys, which are left out: "},
			"unused for longer": {o(func(o *keylist.Options) { o.Unused = 101 * 24 * time.Hour }), nil, "last use of 1 keys"},
			"by name":           {o(func(o *keylist.Options) { o.Names, o.LastUse = []string{"alias/b-used", open, used}, true }), []string{"alias/a-open", "alias/b-used"}, ""},
		} {
			l := w.list(tt.options)
			if d := cmp.Diff(tt.want, names(l)); d != "" {
				t.Errorf("%s (-want +got):\n%s", name, d)
			}
			if got := strings.Join(l.NotKnown, "\n"); (got == "") != (tt.notKnown == "") || !strings.HasPrefix(got, tt.notKnown) {
				t.Errorf("%s: not known: %q", name, got)
			}
		}
		l := w.list(o(func(*keylist.Options) {}))
		if k := l.Keys[2]; k.ARN != shut || k.Judged || !strings.Contains(k.Policy.NotKnown, "access denied") || !k.Grants.Known() || k.Rotation.Enabled != nil || k.Rotation.Known() || k.Worst != "" {
			t.Errorf("what may not be read: %+v", k)
		}
		if tt := l.Totals; tt.NotJudged != 1 || tt.Clean != 2 || tt.Rotation.NotKnown != 1 {
			t.Errorf("totals: %+v", tt)
		}
		if _, known := l.Totals.Rotation.Share(); known {
			t.Error("a share is known although a key's rotation is not")
		}
		last := w.list(o(func(o *keylist.Options) { o.Names, o.LastUse = []string{used}, true })).Keys[0].LastUse
		if !last.Known() || last.Used == nil || last.Operation != "Encrypt" {
			t.Errorf("last use: %+v", last)
		}
		if _, err := keylist.New(t.Context(), o(func(o *keylist.Options) { o.Names = []string{used[:len(used)-12] + "000000000000"} })); !errors.Is(err, inventory.ErrNotFound) {
			t.Errorf("a name of no key: %v", err)
		}
	})
}

// TestBucketKeys: a key's buckets without bucket keys are known, those that cannot have
// them are not among them, and what that costs is said only as far as it is known.
func TestBucketKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		key := w.key(kms.CreateKeyInput{})
		for name, encryption := range map[string]struct {
			algorithm s3types.ServerSideEncryption
			key       *string
			bucketKey bool
		}{
			"on": {s3types.ServerSideEncryptionAwsKms, &key, true}, "off": {s3types.ServerSideEncryptionAwsKms, &key, false},
			"twice": {s3types.ServerSideEncryptionAwsKmsDsse, &key, false}, "aws": {s3types.ServerSideEncryptionAwsKms, nil, false},
			"none": {s3types.ServerSideEncryptionAes256, nil, false},
		} {
			name += "-bucket"
			w.bucket(name, "")
			if _, err := w.s3.PutBucketEncryption(t.Context(), &s3.PutBucketEncryptionInput{Bucket: &name, ServerSideEncryptionConfiguration: &s3types.ServerSideEncryptionConfiguration{
				Rules: []s3types.ServerSideEncryptionRule{{
					ApplyServerSideEncryptionByDefault: &s3types.ServerSideEncryptionByDefault{SSEAlgorithm: encryption.algorithm, KMSMasterKeyID: encryption.key},
					BucketKeyEnabled:                   &encryption.bucketKey,
				}},
			}}); err != nil {
				t.Fatal(err)
			}
		}
		l := w.list(w.options("ada"))
		k := l.Keys[slices.IndexFunc(l.Keys, func(k keylist.Key) bool { return k.ARN == key })]
		if got := k.Buckets; !slices.Equal(got.Names, []string{"off-bucket", "on-bucket", "twice-bucket"}) || !slices.Equal(got.BucketKeysOff, []string{"off-bucket"}) {
			t.Errorf("buckets: %+v", got)
		}
		if got := l.BucketKeys; got.Off != 2 || got.USDPerMillion != 3 || got.NotKnown == "" || !strings.Contains(got.Text(), "are off in 2 buckets") || !strings.Contains(got.Text(), "at $3.00 per million") || !strings.Contains(got.Text(), got.NotKnown) {
			t.Errorf("bucket keys: %+v: %s", got, got.Text())
		}
		if text := (keylist.BucketKeys{USDPerMillion: 3}).Text(); text != "" {
			t.Errorf("of no bucket: %s", text)
		}
		rows := l.CSV()
		if i := slices.Index(rows[0], "bucket_keys_off"); !slices.ContainsFunc(rows, func(row []string) bool { return row[0] == key && row[i] == "off-bucket" }) {
			t.Errorf("CSV: %q", rows)
		}
	})
}

// TestUnusedDays counts whole days to when the last use was read.
func TestUnusedDays(t *testing.T) {
	at := time.Date(2026, 6, 10, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		u    keylist.UseRecord
		want int
		ok   bool
	}{
		{keylist.UseRecord{At: at, Used: at.Add(-47 * time.Hour), Since: at.Add(-1000 * time.Hour)}, 1, true},
		{keylist.UseRecord{At: at, Used: at.Add(time.Hour)}, 0, true}, // clocks differ
		{keylist.UseRecord{At: at, Since: at.Add(-48 * time.Hour)}, 2, true},
		{keylist.UseRecord{At: at}, 0, false}, {keylist.UseRecord{Since: at}, 0, false}, {keylist.UseRecord{}, 0, false},
	} {
		if got, ok := tt.u.UnusedDays(); got != tt.want || ok != tt.ok {
			t.Errorf("%+v: %d, %t", tt.u, got, ok)
		}
	}
}

// A last use that was read is recorded, and shown with its date where it is not read. It
// decides nothing: what is asked for by last use is read.
func TestRecordedLastUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		key := w.key(kms.CreateKeyInput{})
		use := func() { do(w, w.kms.Encrypt, kms.EncryptInput{KeyId: &key, Plaintext: []byte("x")}) }
		time.Sleep(24 * time.Hour)
		use()
		used := time.Now().UTC()
		time.Sleep(24 * time.Hour)
		record := map[string]keylist.UseRecord{}
		o := w.options("ada")
		o.Record = func(key string, u keylist.UseRecord) { record[key] = u }
		o.Recorded = func(context.Context) (map[string]keylist.UseRecord, error) { return record, nil }
		of := func(change func(*keylist.Options)) keylist.LastUse {
			t.Helper()
			o := o
			change(&o)
			l := w.list(o)
			if len(l.Keys) != 1 {
				t.Fatalf("%d keys: %q", len(l.Keys), l.NotKnown)
			}
			return l.Keys[0].LastUse
		}
		asked, read := func(o *keylist.Options) { o.Names, o.LastUse = []string{key}, true }, time.Now().UTC()
		if u := of(func(*keylist.Options) {}); u.Record != nil || u.Words() != keylist.NotAsked || len(record) != 0 {
			t.Errorf("before any record: %q, %v", u.Words(), record)
		}
		if u := of(asked); u.Record != nil || !u.Known() || !u.Used.Equal(used) || u.UnusedDays == nil || *u.UnusedDays != 1 {
			t.Errorf("read: %+v", u)
		}
		want := keylist.UseRecord{At: read, Used: used, Operation: "Encrypt", Since: record[key].Since}
		if d := cmp.Diff(map[string]keylist.UseRecord{key: want}, record); d != "" {
			t.Errorf("recorded (-want +got):\n%s", d)
		}
		time.Sleep(100 * 24 * time.Hour)
		use()
		u := of(func(*keylist.Options) {})
		if words := "Encrypt at " + used.Format(time.RFC3339) + " (as of " + read.Format(time.DateOnly) + ")"; u.Known() || u.Words() != words || u.UnusedFor(time.Hour, time.Now()) {
			t.Errorf("later: %q, want %q", u.Words(), words)
		}
		// By the record it has not been used for 90 days.
		unused := o
		unused.Unused = 90 * 24 * time.Hour
		if l := w.list(unused); len(l.Keys) != 0 || !record[key].Used.Equal(time.Now()) {
			t.Errorf("unused: %d keys, recorded %+v", len(l.Keys), record[key])
		}
		w.aws.SetIdentityPolicy("ada", func(action, _ string) bool { return action != "kms:GetKeyLastUsage" })
		if u := of(asked); u.Known() || !strings.HasPrefix(u.Words(), "not known: ") || !strings.Contains(u.Words(), "; recorded before: Encrypt at ") {
			t.Errorf("denied: %q", u.Words())
		}
		o.Recorded = func(context.Context) (map[string]keylist.UseRecord, error) { return nil, errors.New("no state") }
		if l := w.list(o); !slices.Equal(l.NotKnown, []string{"last uses that were recorded: no state"}) {
			t.Errorf("the record is not readable: %q", l.NotKnown)
		}
	})
}

// TestExemptionsAndApprovals: what is forgiven is said, and stays a danger.
// TestDependents: AWS Config's numbers are those of the key, and what it does not know is said.
func TestDependents(t *testing.T) {
	w := newWorld(t)
	used, unused := w.key(kms.CreateKeyInput{}), w.key(kms.CreateKeyInput{})
	w.alias("alias/used", used)
	for i := range 3 {
		w.aws.AWSConfig().Put(config.Item{Type: "AWS::EC2::Volume", ID: fmt.Sprint(i), Configuration: map[string]any{"kmsKeyId": used}})
	}
	w.aws.AWSConfig().Put(config.Item{Type: "AWS::SQS::Queue", ID: "q", Configuration: map[string]any{"KmsMasterKeyId": "alias/used"}})
	o := w.options("ada")
	if l := w.list(o); l.Keys[0].Dependents != nil {
		t.Errorf("not asked for: %+v", l.Keys[0].Dependents)
	}
	o.Resources = awsclient.AWSConfig(inprocess.Config(w.aws, region, "ada"))
	texts := func(want map[string]string) {
		t.Helper()
		for _, k := range w.list(o).Keys {
			for _, row := range k.Rows() {
				if row.Name == "resources" && strings.Join(row.Values, ", ") != want[k.ARN] {
					t.Errorf("%s: %q, want %q", k.ARN, row.Values, want[k.ARN])
				}
			}
		}
	}
	w.aws.AWSConfig().SetRecorder(&config.Recorder{Group: config.All()})
	texts(map[string]string{used: "3 EBS volumes, 1 SQS queue", unused: "none"})
	if l := w.list(o); len(l.NotKnown) > 0 {
		t.Errorf("not known: %q", l.NotKnown)
	}
	w.aws.AWSConfig().SetRecorder(nil)
	const why = "unknown: AWS Config has no recorder in this Region"
	texts(map[string]string{used: "not known: " + why, unused: "not known: " + why})
	if l := w.list(o); len(l.NotKnown) != 1 || !strings.Contains(l.NotKnown[0], why) {
		t.Errorf("not known: %q", l.NotKnown)
	}
}

func TestExemptionsAndApprovals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		legacy := w.key(kms.CreateKeyInput{})
		w.alias("alias/legacy-erp", legacy)
		sandbox := w.key(kms.CreateKeyInput{Policy: &w.open, Tags: []types.Tag{{TagKey: aws.String("env"), TagValue: aws.String("sandbox")}}})
		dying := w.key(kms.CreateKeyInput{})
		do(w, w.kms.ScheduleKeyDeletion, kms.ScheduleKeyDeletionInput{KeyId: &dying})
		exemptions, err := judgement.ParseExemptions("rotation of alias/legacy-* until 2999-01-01: the vendor cannot; policy of tag env=sandbox until 2999-01-01: nothing is in it; rotation of alias/legacy-* until 1999-01-01: over", []string{"rotation", "policy"})
		if err != nil {
			t.Fatal(err)
		}
		o := w.options("ada")
		o.Exemptions = exemptions
		o.Approved = func(_ context.Context, k inventory.Key) (bool, error) { return k.ARN == dying, nil }
		by := func(l keylist.List) map[string]keylist.Key {
			all := map[string]keylist.Key{}
			for _, k := range l.Keys {
				all[k.ARN] = k
			}
			return all
		}
		fresh := by(w.list(o))[legacy]
		if len(fresh.Exemptions) != 1 || fresh.Exemptions[0].From.IsZero() || fresh.Dangers[0].Exempt != "" {
			t.Errorf("an alias of today: %+v", fresh)
		}
		time.Sleep(25 * time.Hour)
		l := w.list(o)
		keys := by(l)
		if k := keys[legacy]; len(k.Dangers) != 1 || !strings.Contains(k.Dangers[0].Exempt, "the vendor cannot") || k.Worst != "medium" || !k.Exemptions[0].From.IsZero() {
			t.Errorf("by alias: %+v", k)
		}
		if k := keys[sandbox]; len(k.Dangers) != 2 || k.Dangers[0].Exempt == "" || k.Dangers[1].Exempt != "" || k.Tags.Values["env"] != "sandbox" {
			t.Errorf("by tag: %+v", k)
		}
		if k := keys[dying]; !k.DeletionApproved || k.Worst != "info" || k.Bad() {
			t.Errorf("approved: %+v", k)
		}
		if tt := l.Totals; tt.Exempt != 2 || tt.Open["medium"] != 1 || tt.Open["critical"] != 0 || tt.Open["info"] != 1 {
			t.Errorf("totals: %+v", tt)
		}
		o.Approved = func(context.Context, inventory.Key) (bool, error) { return false, errors.New("no state") }
		if k := by(w.list(o))[dying]; k.Judged || k.ApprovalNotKnown != "no state" || k.Worst != "critical" {
			t.Errorf("an approval that cannot be read: %+v", k)
		}
	})
}

func TestCell(t *testing.T) {
	for text, want := range map[string]string{
		"":                    "",
		"alias/app":           "alias/app",
		"=cmd|' /C calc'!A0":  "'=cmd|' /C calc'!A0",
		"+1":                  "'+1",
		"-1":                  "'-1",
		"@SUM(A1)":            "'@SUM(A1)",
		"\t=1":                `\t=1`,
		"\r=1":                `\r=1`,
		"  =1":                "'  =1",
		`"=1`:                 `'"=1`,
		"＝1":                  "'＝1",
		"a\u202eb\u009bc\x1b": `a\u202eb\u009bc\x1b`,
	} {
		if got := keylist.Cell(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// TestOldMaterial: keys that KMS cannot rotate are dangers from an age on. Only of imported
// material the last rotation is asked for, and where that is refused the key is not judged.
func TestOldMaterial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		imported := w.key(kms.CreateKeyInput{Origin: types.OriginTypeExternal})
		w.importMaterial(imported)
		signing := w.key(kms.CreateKeyInput{KeySpec: types.KeySpecEccNistP256, KeyUsage: types.KeyUsageTypeSignVerify})
		time.Sleep(2 * 24 * time.Hour)
		w.key(kms.CreateKeyInput{KeySpec: types.KeySpecHmac256, KeyUsage: types.KeyUsageTypeGenerateVerifyMac}) // is new
		o := w.options("ada")
		o.Rules.ManualRotationDays = 1
		requests := w.aws.Requests("kms", "ListKeyRotations")
		old := func() (old []string, judged int) {
			for _, k := range w.list(o).Keys {
				if k.Judged {
					judged++
				}
				if slices.ContainsFunc(k.Dangers, func(d keylist.Danger) bool { return d.Name == posture.DangerAge }) {
					old = append(old, k.ARN)
				}
			}
			slices.Sort(old)
			return old, judged
		}
		want := []string{imported, signing}
		slices.Sort(want)
		if got, judged := old(); !slices.Equal(got, want) || judged != 3 {
			t.Errorf("old are %v, and %d were judged", got, judged)
		}
		if n := w.aws.Requests("kms", "ListKeyRotations") - requests; n != 1 {
			t.Errorf("%d requests for rotations", n)
		}
		w.aws.AddIdentity("bob", wire.Caller{Type: "IAMUser", ARN: "arn:aws:iam::" + account + ":user/bob"})
		w.aws.SetIdentityPolicy("bob", func(action, _ string) bool { return action != "kms:ListKeyRotations" })
		o.Facts = w.options("bob").Facts
		if got, judged := old(); !slices.Equal(got, []string{signing}) || judged != 2 {
			t.Errorf("without the permission, old are %v, and %d were judged", got, judged)
		}
	})
}
