package inventory

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	kmstypes "github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
)

const (
	account = "111122223333"
	region  = "eu-central-1"
	nowhere = "arn:aws:kms:eu-central-1:111122223333:key/00000000-0000-4000-8000-000000000000"
)

// world is an account, read by a Reader and changed through clients.
type world struct {
	*Reader
	server *localaws.Server
	keys   *kms.Client
	bucket *s3.Client
}

func newWorld(t *testing.T) *world {
	t.Helper()
	server := localaws.New(localaws.Options{Account: account, Region: region})
	t.Cleanup(server.Close)
	w := &world{server: server}
	w.keys, w.bucket = w.clients("test")
	w.Reader = w.as("test")
	return w
}

func (w *world) clients(accessKey string) (*kms.Client, *s3.Client) {
	cfg := inprocess.Config(w.server, region, accessKey)
	return kms.NewFromConfig(cfg), s3.NewFromConfig(cfg, func(o *s3.Options) { o.UsePathStyle = true })
}

func (w *world) as(accessKey string) *Reader {
	keys, buckets := w.clients(accessKey)
	return New(keys, buckets, account, region)
}

func must[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func (w *world) createKey(t *testing.T, in *kms.CreateKeyInput) string {
	t.Helper()
	return *must(w.keys.CreateKey(t.Context(), in))(t).KeyMetadata.Arn
}

func (w *world) createAlias(t *testing.T, name, key string) {
	t.Helper()
	must(w.keys.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: &name, TargetKeyId: &key}))(t)
}

func (w *world) createBucket(t *testing.T, name, defaultKey string) {
	t.Helper()
	must(w.bucket.CreateBucket(t.Context(), &s3.CreateBucketInput{
		Bucket: &name, CreateBucketConfiguration: &types.CreateBucketConfiguration{LocationConstraint: region},
	}))(t)
	if defaultKey == "" {
		return
	}
	must(w.bucket.PutBucketEncryption(t.Context(), &s3.PutBucketEncryptionInput{
		Bucket: &name,
		ServerSideEncryptionConfiguration: &types.ServerSideEncryptionConfiguration{Rules: []types.ServerSideEncryptionRule{{
			ApplyServerSideEncryptionByDefault: &types.ServerSideEncryptionByDefault{
				SSEAlgorithm: types.ServerSideEncryptionAwsKms, KMSMasterKeyID: &defaultKey,
			},
			BucketKeyEnabled: aws.Bool(true),
		}}},
	}))(t)
}

func TestKey(t *testing.T) {
	w := newWorld(t)
	arn := w.createKey(t, &kms.CreateKeyInput{Description: aws.String("payments")})
	w.createAlias(t, "alias/payments", arn)
	_, id, _ := strings.Cut(arn, "key/")
	want := Key{
		ARN: arn, ID: id, Account: account, Region: region, Description: "payments",
		State: "Enabled", Manager: "CUSTOMER", Origin: "AWS_KMS", Spec: "SYMMETRIC_DEFAULT", Usage: "ENCRYPT_DECRYPT",
	}
	aliasARN := "arn:aws:kms:" + region + ":" + account + ":alias/payments"
	for _, name := range []string{arn, id, "alias/payments", aliasARN, strings.Replace(aliasARN, ":alias/", ":key/alias/", 1)} {
		got, err := w.Key(t.Context(), name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got.Created.IsZero() || !got.Enabled() || got.PendingDeletion() || got.RotationBlocker() != "" {
			t.Errorf("%s: %+v", name, got)
		}
		got.Created = time.Time{}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		resolved, err := w.Resolve(t.Context(), name)
		if err != nil || resolved != arn {
			t.Errorf("Resolve(%s) = %s, %v", name, resolved, err)
		}
	}
	must(w.keys.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: &arn, PendingWindowInDays: aws.Int32(7)}))(t)
	got := must(w.Key(t.Context(), arn))(t)
	if !got.PendingDeletion() || got.DeletionDate == nil || got.RotationBlocker() != BlockedPendingDeletion {
		t.Errorf("pending deletion: %+v", got)
	}
}

func TestKeyMultiRegion(t *testing.T) {
	primary := Key{MultiRegion: "PRIMARY", State: "Enabled"}
	if b := primary.RotationBlocker(); b != "" {
		t.Errorf("a primary cannot rotate: %s", b)
	}
	w := newWorld(t)
	arn := w.createKey(t, &kms.CreateKeyInput{MultiRegion: aws.Bool(true)})
	got := must(w.Key(t.Context(), arn))(t)
	if got.MultiRegion != "PRIMARY" || got.PrimaryARN != arn {
		t.Errorf("got %+v", got)
	}
}

func TestResolveKeepsForeignARNs(t *testing.T) {
	w := newWorld(t)
	for _, arn := range []string{
		nowhere,
		"arn:aws-us-gov:kms:us-gov-west-1:444455556666:key/mrk-00000000000040008000000000000000",
	} {
		if got, err := w.Resolve(t.Context(), arn); got != arn || err != nil {
			t.Errorf("Resolve(%s) = %s, %v", arn, got, err)
		}
	}
	if n := w.server.Requests("kms", "DescribeKey"); n != 0 {
		t.Errorf("%d requests for what needs none", n)
	}
}

func TestAliasName(t *testing.T) {
	for in, want := range map[string]string{
		"":                            "",
		nowhere:                       "",
		"0000-00":                     "",
		"alias/a/b":                   "alias/a/b",
		"arn:aws:kms:r:1:alias/a/b":   "alias/a/b",
		"arn:aws:kms:r:1:key/alias/a": "alias/a",
		"not:alias/a":                 "",
	} {
		if got := aliasName(in); got != want {
			t.Errorf("aliasName(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestRotationBlocker(t *testing.T) {
	can := Key{Manager: "CUSTOMER", Origin: "AWS_KMS", Spec: "SYMMETRIC_DEFAULT", State: "Enabled"}
	with := func(change func(k *Key)) Key {
		k := can
		change(&k)
		return k
	}
	for _, tt := range []struct {
		name string
		key  Key
		want Blocker
	}{
		{"can", can, ""},
		{"primary", with(func(k *Key) { k.MultiRegion = "PRIMARY" }), ""},
		{"updating", with(func(k *Key) { k.State = "Updating" }), ""},
		{"AWS managed", with(func(k *Key) { k.Manager = "AWS" }), BlockedAWSManaged},
		{"RSA", with(func(k *Key) { k.Spec = "RSA_2048" }), BlockedAsymmetric},
		{"ECC", with(func(k *Key) { k.Spec = "ECC_NIST_P256" }), BlockedAsymmetric},
		{"ML-KEM", with(func(k *Key) { k.Spec = "ML_KEM_768" }), BlockedAsymmetric},
		{"HMAC", with(func(k *Key) { k.Spec = "HMAC_256" }), BlockedHMAC},
		{"imported", with(func(k *Key) { k.Origin = "EXTERNAL" }), BlockedImported},
		{"imported, waiting for material", with(func(k *Key) { k.Origin, k.State = "EXTERNAL", "PendingImport" }), BlockedImported},
		{"CloudHSM", with(func(k *Key) { k.Origin = "AWS_CLOUDHSM" }), BlockedCustomKeyStore},
		{"external key store", with(func(k *Key) { k.Origin = "EXTERNAL_KEY_STORE" }), BlockedCustomKeyStore},
		{"some key store", with(func(k *Key) { k.CustomKeyStoreID = "cks-1" }), BlockedCustomKeyStore},
		{"replica", with(func(k *Key) { k.MultiRegion = "REPLICA" }), BlockedReplica},
		{"replica, disabled", with(func(k *Key) { k.MultiRegion, k.State = "REPLICA", "Disabled" }), BlockedReplica},
		{"pending deletion", with(func(k *Key) { k.State = "PendingDeletion" }), BlockedPendingDeletion},
		{"pending deletion of replicas", with(func(k *Key) { k.State = "PendingReplicaDeletion" }), BlockedPendingDeletion},
		{"disabled", with(func(k *Key) { k.State = "Disabled" }), BlockedDisabled},
		{"waiting for material", with(func(k *Key) { k.State = "PendingImport" }), BlockedPendingImport},
		{"creating", with(func(k *Key) { k.State = "Creating" }), BlockedUnavailable},
		{"unavailable", with(func(k *Key) { k.State = "Unavailable" }), BlockedUnavailable},
		{"a state from the future", with(func(k *Key) { k.State = "Dreaming" }), BlockedUnavailable},
		{"lasting reasons first", with(func(k *Key) { k.Spec, k.State = "RSA_2048", "PendingDeletion" }), BlockedAsymmetric},
	} {
		if got := tt.key.RotationBlocker(); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestRotation(t *testing.T) {
	w := newWorld(t)
	arn := w.createKey(t, &kms.CreateKeyInput{})
	if got := must(w.Rotation(t.Context(), arn))(t); got.Enabled || got.Next != nil {
		t.Errorf("a new key: %+v", got)
	}
	must(w.keys.EnableKeyRotation(t.Context(), &kms.EnableKeyRotationInput{KeyId: &arn, RotationPeriodInDays: aws.Int32(180)}))(t)
	if got := must(w.Rotation(t.Context(), arn))(t); !got.Enabled || got.Period != 180 || got.Next == nil {
		t.Errorf("a rotating key: %+v", got)
	}
}

func TestLastRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		arn := w.createKey(t, &kms.CreateKeyInput{})
		if got := must(w.LastRotation(t.Context(), arn))(t); !got.IsZero() {
			t.Errorf("a new key: %v", got)
		}
		must(w.keys.EnableKeyRotation(t.Context(), &kms.EnableKeyRotationInput{KeyId: &arn, RotationPeriodInDays: aws.Int32(90)}))(t)
		time.Sleep(91 * 24 * time.Hour)
		must(w.keys.RotateKeyOnDemand(t.Context(), &kms.RotateKeyOnDemandInput{KeyId: &arn}))(t)
		if got := must(w.LastRotation(t.Context(), arn))(t); time.Since(got) > time.Minute {
			t.Errorf("rotated on demand: %v", got)
		}
	})
}

func TestPolicy(t *testing.T) {
	w := newWorld(t)
	arn := w.createKey(t, &kms.CreateKeyInput{})
	if got := must(w.Policy(t.Context(), arn))(t); !strings.Contains(got, "arn:aws:iam::"+account+":root") {
		t.Errorf("got %s", got)
	}
}

func TestKeysAndAliases(t *testing.T) {
	w := newWorld(t)
	var keys, names []string
	for i := range 60 {
		arn := w.createKey(t, &kms.CreateKeyInput{})
		keys = append(keys, arn)
		for j := range 2 {
			name := fmt.Sprintf("alias/k%02d/%d", i, j)
			w.createAlias(t, name, arn)
			names = append(names, name)
		}
	}
	got := must(w.Keys(t.Context()))(t)
	for _, arn := range keys {
		if !slices.Contains(got, arn) {
			t.Errorf("key %s is missing", arn)
		}
	}
	aliases := must(w.Aliases(t.Context()))(t) // KMS lists 100 at a time
	var found []string
	for _, a := range aliases {
		if !a.AWSManaged {
			found = append(found, a.Name)
		}
		if a.AWSManaged != strings.HasPrefix(a.Name, "alias/aws/") {
			t.Errorf("%+v", a)
		}
	}
	if !slices.Equal(found, names) {
		t.Errorf("got aliases %v", found)
	}
	of := must(w.AliasesOf(t.Context(), keys[7]))(t)
	if len(of) != 2 {
		t.Fatalf("got %+v", of)
	}
	_, id, _ := strings.Cut(keys[7], "key/")
	want := Alias{
		Name: "alias/k07/0", ARN: "arn:aws:kms:" + region + ":" + account + ":alias/k07/0",
		TargetKeyID: id, TargetKeyARN: keys[7], Updated: of[0].Updated,
	}
	if diff := cmp.Diff(want, of[0]); diff != "" || of[0].Updated.IsZero() {
		t.Errorf("alias (-want +got):\n%s", diff)
	}
}

func TestAliasOf(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   kmstypes.AliasListEntry
		want Alias
	}{
		{"of AWS, without a key", kmstypes.AliasListEntry{
			AliasName: aws.String("alias/aws/s3"), AliasArn: aws.String("arn:aws:kms:r:1:alias/aws/s3"),
		}, Alias{Name: "alias/aws/s3", ARN: "arn:aws:kms:r:1:alias/aws/s3", AWSManaged: true}},
		{"without a time of update", kmstypes.AliasListEntry{
			AliasName: aws.String("alias/a"), AliasArn: aws.String("arn:aws-cn:kms:r:1:alias/a"), TargetKeyId: aws.String("k"),
			CreationDate: aws.Time(time.Unix(1, 0)),
		}, Alias{Name: "alias/a", ARN: "arn:aws-cn:kms:r:1:alias/a", TargetKeyID: "k", TargetKeyARN: "arn:aws-cn:kms:r:1:key/k"}},
	} {
		if diff := cmp.Diff(tt.want, aliasOf(tt.in)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

func TestTags(t *testing.T) {
	w := newWorld(t)
	var tags []kmstypes.Tag
	want := map[string]string{}
	for i := range 50 { // as many as a key can have
		name, value := fmt.Sprintf("cmkeeper:tag-%d", i), fmt.Sprint(i)
		tags, want[name] = append(tags, kmstypes.Tag{TagKey: &name, TagValue: &value}), value
	}
	arn := w.createKey(t, &kms.CreateKeyInput{Tags: tags})
	if diff := cmp.Diff(want, must(w.Tags(t.Context(), arn))(t)); diff != "" {
		t.Errorf("tags (-want +got):\n%s", diff)
	}
	if got := must(w.Tags(t.Context(), w.createKey(t, &kms.CreateKeyInput{})))(t); len(got) != 0 {
		t.Errorf("tags of a key without tags: %v", got)
	}
	if _, err := w.Tags(t.Context(), nowhere); !errors.Is(err, ErrNotFound) {
		t.Errorf("tags of a key that does not exist: %v", err)
	}
}

func TestLastUsage(t *testing.T) {
	w := newWorld(t)
	arn := w.createKey(t, &kms.CreateKeyInput{})
	if got := must(w.LastUsage(t.Context(), arn))(t); !got.At.IsZero() || got.String() != "never since it was created" {
		t.Errorf("a new key: %+v: %s", got, got)
	}
	must(w.keys.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &arn, Plaintext: []byte("secret")}))(t)
	if got := must(w.LastUsage(t.Context(), arn))(t); got.At.IsZero() || !strings.HasPrefix(got.String(), "Encrypt at ") {
		t.Errorf("a key that was used: %+v: %s", got, got)
	}
	tracked := time.Date(2026, 4, 23, 0, 0, 0, 0, time.UTC)
	if got := (Usage{Since: tracked, Created: tracked.Add(-time.Hour)}).String(); got != "never since KMS began to record it, 2026-04-23" {
		t.Errorf("an old key: %s", got)
	}
	if _, err := w.LastUsage(t.Context(), nowhere); !errors.Is(err, ErrNotFound) {
		t.Errorf("a key that does not exist: %v", err)
	}
}

func TestGrants(t *testing.T) {
	w := newWorld(t)
	arn := w.createKey(t, &kms.CreateKeyInput{})
	const grantee = "arn:aws:iam::" + account + ":role/app"
	must(w.keys.CreateGrant(t.Context(), &kms.CreateGrantInput{
		KeyId: &arn, GranteePrincipal: aws.String(grantee), Name: aws.String("app"),
		Operations:  []kmstypes.GrantOperation{kmstypes.GrantOperationDecrypt, kmstypes.GrantOperationEncrypt},
		Constraints: &kmstypes.GrantConstraints{EncryptionContextSubset: map[string]string{"a": "b"}},
	}))(t)
	got := must(w.Grants(t.Context(), arn))(t)
	if len(got) != 1 || got[0].ID == "" || got[0].Grantee != grantee || got[0].Name != "app" || !got[0].Constrained ||
		!slices.Equal(got[0].Operations, []string{"Decrypt", "Encrypt"}) {
		t.Errorf("got %+v", got)
	}
	service := grantOf(kmstypes.GrantListEntry{
		GranteeServicePrincipal: aws.String("rds.amazonaws.com"), Constraints: &kmstypes.GrantConstraints{SourceArn: aws.String("arn:x")},
	})
	if service.GranteeService != "rds.amazonaws.com" || !service.Constrained {
		t.Errorf("a grant to a service: %+v", service)
	}
}

// TestListsAreReadToTheirEnd: a list is asked for by a paginator alone, so that none ends
// with its first page.
func TestListsAreReadToTheirEnd(t *testing.T) {
	for _, file := range must(filepath.Glob("*.go"))(t) {
		parsed := must(parser.ParseFile(token.NewFileSet(), file, nil, 0))(t)
		ast.Inspect(parsed, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			if f, ok := call.Fun.(*ast.SelectorExpr); ok && strings.HasPrefix(f.Sel.Name, "List") && !strings.HasSuffix(file, "_test.go") {
				t.Errorf("%s calls %s itself: use its paginator", file, f.Sel.Name)
			}
			return true
		})
	}
}

func TestErrors(t *testing.T) {
	w := newWorld(t)
	arn := w.createKey(t, &kms.CreateKeyInput{})
	w.createBucket(t, "data", "")
	w.server.SetIdentityPolicy("nobody", func(string, string) bool { return false })
	nobody := w.as("nobody")
	// calls calls every method with what it takes: a key or a bucket, or nothing.
	calls := func(r *Reader, key, bucket string) map[string]error {
		errs := map[string]error{}
		reader := reflect.ValueOf(r)
		for i := range reader.NumMethod() {
			name := reader.Type().Method(i).Name
			args := []reflect.Value{reflect.ValueOf(t.Context())}
			if takes := reader.Method(i).Type().NumIn() - 1; takes > 1 {
				t.Fatalf("%s takes more than a name: call it here", name)
			} else if takes == 1 && strings.HasPrefix(name, "Bucket") {
				args = append(args, reflect.ValueOf(bucket))
			} else if takes == 1 {
				args = append(args, reflect.ValueOf(key))
			}
			out := reader.Method(i).Call(args)
			errs[name+strings.Repeat(" of one", len(args)-1)], _ = out[len(out)-1].Interface().(error)
		}
		delete(errs, "Resolve of one") // asks nobody about what is an ARN
		return errs
	}
	for name, err := range calls(w.Reader, nowhere, "no-such-bucket") {
		if strings.HasSuffix(name, " of one") && (!errors.Is(err, ErrNotFound) || errors.Is(err, ErrAccessDenied)) {
			t.Errorf("%s that does not exist: %v", name, err)
		}
	}
	for name, err := range calls(nobody, arn, "data") {
		if !errors.Is(err, ErrAccessDenied) || errors.Is(err, ErrNotFound) {
			t.Errorf("%s by nobody: %v", name, err)
		}
	}
	if _, err := w.Resolve(t.Context(), "alias/none"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Resolve: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.Key(ctx, arn); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestBuckets(t *testing.T) {
	w := newWorld(t)
	arn := w.createKey(t, &kms.CreateKeyInput{})
	w.createAlias(t, "alias/app", arn)
	_, id, _ := strings.Cut(arn, "key/")
	aliasARN := "arn:aws:kms:" + region + ":" + account + ":alias/app"
	w.createBucket(t, "plain", "")
	w.createBucket(t, "by-alias", "alias/app")
	w.createBucket(t, "by-alias-arn", aliasARN)
	w.createBucket(t, "by-arn", arn)
	w.createBucket(t, "by-id", id)
	w.createBucket(t, "gone", nowhere)
	w.createBucket(t, "gone-alias", "alias/gone")
	must(w.bucket.PutBucketTagging(t.Context(), &s3.PutBucketTaggingInput{Bucket: aws.String("plain"), Tagging: &types.Tagging{TagSet: []types.Tag{
		{Key: aws.String("team"), Value: aws.String("alias/x")},
		{Key: aws.String(AliasTag), Value: aws.String("alias/app alias/other")},
	}}}))(t)
	got, err := w.Buckets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []Bucket{
		{Name: "by-alias", Region: region, DefaultKey: "alias/app", DefaultAlias: "alias/app", DefaultKeyARN: arn, KMS: true, BucketKey: true},
		{Name: "by-alias-arn", Region: region, DefaultKey: aliasARN, DefaultAlias: "alias/app", DefaultKeyARN: arn, KMS: true, BucketKey: true},
		{Name: "by-arn", Region: region, DefaultKey: arn, DefaultKeyARN: arn, KMS: true, BucketKey: true},
		{Name: "by-id", Region: region, DefaultKey: id, DefaultKeyARN: arn, KMS: true, BucketKey: true},
		{Name: "gone", Region: region, DefaultKey: nowhere, DefaultKeyARN: nowhere, KMS: true, BucketKey: true},
		{Name: "gone-alias", Region: region, DefaultKey: "alias/gone", DefaultAlias: "alias/gone", DefaultKeyGone: true, KMS: true, BucketKey: true},
		{Name: "plain", Region: region, AliasTags: []string{"alias/app", "alias/other"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("buckets (-want +got):\n%s", diff)
	}
	one, err := w.Bucket(t.Context(), "by-id")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want[3], one); diff != "" {
		t.Errorf("one bucket (-want +got):\n%s", diff)
	}
}

func TestDefaultIs(t *testing.T) {
	const id = "1b2c3d4e-0000-4000-8000-000000000001"
	key := "arn:aws:kms:" + region + ":" + account + ":key/" + id
	foreign := "arn:aws:kms:" + region + ":444455556666:alias/app"
	for name, tt := range map[string]struct {
		b         Bucket
		is, known bool
	}{
		"no key":                       {Bucket{}, false, true},
		"the key":                      {Bucket{DefaultKey: "alias/app", DefaultAlias: "alias/app", DefaultKeyARN: key}, true, true},
		"another key":                  {Bucket{DefaultKey: nowhere, DefaultKeyARN: nowhere}, false, true},
		"an alias that does not exist": {Bucket{DefaultKey: "alias/gone", DefaultAlias: "alias/gone", DefaultKeyGone: true}, false, true},
		"an id that does not exist":    {Bucket{DefaultKey: "other", DefaultKeyGone: true}, false, true},
		"an alias, denied":             {Bucket{DefaultKey: "alias/app", DefaultAlias: "alias/app"}, false, false},
		"a foreign alias, denied":      {Bucket{DefaultKey: foreign, DefaultAlias: "alias/app"}, false, true},
		"its id, denied":               {Bucket{DefaultKey: id}, true, true},
		"another id, denied":           {Bucket{DefaultKey: "other"}, false, true},
	} {
		if is, known := tt.b.DefaultIs(key); is != tt.is || known != tt.known {
			t.Errorf("%s: %t, known %t", name, is, known)
		}
	}
}

func TestBucketsThatCannotBeRead(t *testing.T) {
	w := newWorld(t)
	for i := range 40 {
		w.createBucket(t, fmt.Sprintf("bucket-%02d", i), "")
	}
	w.server.SetIdentityPolicy("half", func(action, resource string) bool {
		return action != "s3:GetEncryptionConfiguration" || !strings.HasSuffix(resource, "bucket-13")
	})
	got, err := w.as("half").Buckets(t.Context())
	if len(got) != 39 {
		t.Errorf("%d buckets could be read", len(got))
	}
	if !errors.Is(err, ErrAccessDenied) || !strings.Contains(err.Error(), "bucket-13") || strings.Contains(err.Error(), "bucket-14") {
		t.Errorf("got %v", err)
	}
}

// lists is an S3 that lists what it is told, as other servers and Regions do.
type lists struct {
	S3
	buckets []types.Bucket
}

func (l lists) ListBuckets(context.Context, *s3.ListBucketsInput, ...func(*s3.Options)) (*s3.ListBucketsOutput, error) {
	return &s3.ListBucketsOutput{Buckets: l.buckets}, nil
}

func TestBucketsOfOtherServers(t *testing.T) {
	w := newWorld(t)
	w.createBucket(t, "unsaid", "")
	w.s3 = lists{w.bucket, []types.Bucket{
		{Name: aws.String("unsaid")},
		{Name: aws.String("elsewhere"), BucketRegion: aws.String("us-west-2")},
		{Name: aws.String("deleted-meanwhile"), BucketRegion: aws.String(region)},
	}}
	got, err := w.Buckets(t.Context())
	if err != nil || len(got) != 1 || got[0].Name != "unsaid" || got[0].Region != region {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestAliasTags(t *testing.T) {
	for _, tt := range []struct {
		value string
		want  []string
	}{
		{"", nil},
		{"alias/a", []string{"alias/a"}},
		{" alias/a,alias/b ,  alias/c, ", []string{"alias/a", "alias/b", "alias/c"}},
	} {
		got := aliasTags([]types.Tag{{Key: aws.String(AliasTag), Value: &tt.value}})
		if !slices.Equal(got, tt.want) {
			t.Errorf("%q gives %q", tt.value, got)
		}
	}
	if got := aliasTags([]types.Tag{{Key: aws.String("other"), Value: aws.String("alias/a")}}); got != nil {
		t.Errorf("another tag gives %q", got)
	}
}

func TestDefaultEncryption(t *testing.T) {
	for _, c := range []*types.ServerSideEncryptionConfiguration{nil, {}, {Rules: []types.ServerSideEncryptionRule{{}}}} {
		var b Bucket
		if b.setEncryption(c); !cmp.Equal(b, Bucket{}) {
			t.Errorf("%+v gives %+v", c, b)
		}
	}
}
