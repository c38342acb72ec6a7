package kms_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
	"github.com/cmkeeper/cmkeeper/internal/localaws/kms"
	"github.com/cmkeeper/cmkeeper/internal/localaws/trail"
	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

const (
	account = "111122223333"
	region  = "eu-central-1"
)

// callers are who the access keys of the tests belong to.
var callers = map[string]wire.Caller{
	"ADA": {Type: "IAMUser", AccountID: account, ARN: "arn:aws:iam::" + account + ":user/ada", PrincipalID: "AIDAADA", UserName: "ada"},
	"CI": {
		Type: "AssumedRole", AccountID: account, ARN: "arn:aws:sts::" + account + ":assumed-role/deploy/run-1", PrincipalID: "AROADEPLOY:run-1",
	},
	"ROOT": {Type: "Root", AccountID: account, ARN: "arn:aws:iam::" + account + ":root", PrincipalID: account},
	"READER": {
		Type: "IAMUser", AccountID: account, ARN: "arn:aws:iam::" + account + ":user/reader", PrincipalID: "AIDAREADER", UserName: "reader",
		Allowed: func(action, _ string) bool { return action == "kms:DescribeKey" || action == "kms:ListKeys" },
	},
	"MAKER": {
		Type: "IAMUser", AccountID: account, ARN: "arn:aws:iam::" + account + ":user/maker", PrincipalID: "AIDAMAKER", UserName: "maker",
		Allowed: func(action, _ string) bool { return action == "kms:CreateKey" || action == "kms:PutKeyPolicy" },
	},
	"FOREIGN": {Type: "IAMUser", AccountID: "444455556666", ARN: "arn:aws:iam::444455556666:user/eve", PrincipalID: "AIDAEVE", UserName: "eve"},
}

// world is a KMS with the events that it published.
type world struct {
	*kms.Service
	trail  *trail.Recorder
	mu     sync.Mutex
	events []event
}

type event struct {
	DetailType string   `json:"detail-type"`
	Source     string   `json:"source"`
	Account    string   `json:"account"`
	Region     string   `json:"region"`
	ID         string   `json:"id"`
	Time       string   `json:"time"`
	Resources  []string `json:"resources"`
	Detail     record   `json:"detail"`
}

type record struct {
	EventVersion        string          `json:"eventVersion"`
	EventName           string          `json:"eventName"`
	EventTime           string          `json:"eventTime"`
	EventID             string          `json:"eventID"`
	EventType           string          `json:"eventType"`
	ErrorCode           string          `json:"errorCode"`
	ErrorMessage        string          `json:"errorMessage"`
	ReadOnly            bool            `json:"readOnly"`
	UserIdentity        json.RawMessage `json:"userIdentity"`
	SourceIPAddress     string          `json:"sourceIPAddress"`
	RequestParameters   json.RawMessage `json:"requestParameters"`
	ResponseElements    json.RawMessage `json:"responseElements"`
	AdditionalEventData json.RawMessage `json:"additionalEventData"`
	ServiceEventDetails json.RawMessage `json:"serviceEventDetails"`
	Resources           []resource      `json:"resources"`
	SharedEventID       string          `json:"sharedEventID"`
	KeyID               string          `json:"key-id"`
	RotationType        string          `json:"rotation-type"`
}

type resource struct{ Type, ARN string }

func newWorld(t *testing.T, settings trail.Settings) *world {
	w := &world{}
	w.trail = trail.New(trail.Config{Account: account, Region: region, Settings: settings, Publish: func(raw json.RawMessage) {
		var e event
		if err := json.Unmarshal(raw, &e); err != nil {
			t.Errorf("event %s: %v", raw, err)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.events = append(w.events, e)
	}})
	w.Service = kms.New(kms.Config{Account: account, Region: region, Trail: w.trail})
	t.Cleanup(w.trail.Close)
	t.Cleanup(w.Close)
	return w
}

// as returns a client of the caller.
func (w *world) as(accessKey string) *sdk.Client {
	h := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		c := callers[accessKey]
		c.AccessKeyID, c.SourceIP, c.UserAgent = accessKey, "192.0.2.1", "test"
		w.ServeHTTP(rw, r.WithContext(wire.WithRequest(r.Context(), c, wire.NewUUID())))
	})
	cfg := inprocess.Config(h, region, accessKey)
	cfg.RetryMaxAttempts = 1 // the SDK takes LimitExceededException for throttling
	return sdk.NewFromConfig(cfg)
}

// take returns the events so far and forgets them.
func (w *world) take() []event {
	w.mu.Lock()
	defer w.mu.Unlock()
	defer func() { w.events = nil }()
	return w.events
}

func (w *world) last(t *testing.T) event {
	t.Helper()
	events := w.take()
	if len(events) == 0 {
		t.Fatal("no event")
	}
	return events[len(events)-1]
}

func names(events []event) []string {
	var list []string
	for _, e := range events {
		list = append(list, strings.TrimSpace(e.DetailType+" "+e.Detail.EventName))
	}
	return list
}

func create(t *testing.T, c *sdk.Client, change ...func(*sdk.CreateKeyInput)) string {
	t.Helper()
	in := &sdk.CreateKeyInput{}
	for _, f := range change {
		f(in)
	}
	out, err := c.CreateKey(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	return aws.ToString(out.KeyMetadata.Arn)
}

func id(arn string) string { return arn[strings.LastIndexByte(arn, '/')+1:] }

func code(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return ""
}

// Every mutating call becomes a record. KEY and OTHER stand for the ids of the keys.
func TestRecords(t *testing.T) {
	w := newWorld(t, trail.Settings{})
	c := w.as("ADA")
	key, other := create(t, c), create(t, c)
	alias := "arn:aws:kms:" + region + ":" + account + ":alias/x"
	ctx := t.Context()
	var grant *sdk.CreateGrantOutput
	keyARN := `{"keyId":"arn:aws:kms:eu-central-1:111122223333:key/KEY"}`
	for _, tc := range []struct {
		name      string
		call      func() error
		params    string
		response  string
		resources []string // none means the key
	}{
		{"EnableKeyRotation", func() error {
			_, err := c.EnableKeyRotation(ctx, &sdk.EnableKeyRotationInput{KeyId: aws.String(id(key)), RotationPeriodInDays: aws.Int32(180)})
			return err
		}, `{"keyId":"KEY","rotationPeriodInDays":180}`, keyARN, nil},
		{"DisableKeyRotation", func() error {
			_, err := c.DisableKeyRotation(ctx, &sdk.DisableKeyRotationInput{KeyId: &key})
			return err
		}, keyARN, keyARN, nil},
		{"CreateAlias", func() error {
			_, err := c.CreateAlias(ctx, &sdk.CreateAliasInput{AliasName: aws.String("alias/x"), TargetKeyId: aws.String(id(key))})
			return err
		}, `{"aliasName":"alias/x","targetKeyId":"KEY"}`, keyARN, []string{key, alias}},
		{"UpdateAlias", func() error {
			_, err := c.UpdateAlias(ctx, &sdk.UpdateAliasInput{AliasName: aws.String("alias/x"), TargetKeyId: aws.String(id(other))})
			return err
		}, `{"aliasName":"alias/x","targetKeyId":"OTHER"}`, `{"keyId":"arn:aws:kms:eu-central-1:111122223333:key/OTHER"}`, []string{alias, other}},
		{"DeleteAlias", func() error {
			_, err := c.DeleteAlias(ctx, &sdk.DeleteAliasInput{AliasName: aws.String("alias/x")})
			return err
		}, `{"aliasName":"alias/x"}`, `{"keyId":"arn:aws:kms:eu-central-1:111122223333:key/OTHER"}`, []string{alias, other}},
		{"PutKeyPolicy", func() error {
			_, err := c.PutKeyPolicy(ctx, &sdk.PutKeyPolicyInput{KeyId: aws.String(id(key)), Policy: aws.String(`{"Statement":{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*"}}`)})
			return err
		}, `{"keyId":"KEY","policyName":"default","policy":"{\"Statement\":{\"Effect\":\"Allow\",\"Principal\":\"*\",\"Action\":\"kms:*\",\"Resource\":\"*\"}}","bypassPolicyLockoutSafetyCheck":false}`, keyARN, nil},
		{"TagResource", func() error {
			_, err := c.TagResource(ctx, &sdk.TagResourceInput{KeyId: aws.String(id(key)), Tags: []types.Tag{{TagKey: aws.String("A"), TagValue: aws.String("b")}}})
			return err
		}, `{"keyId":"KEY","tags":[{"tagKey":"A","tagValue":"b"}]}`, keyARN, nil},
		{"CreateGrant", func() error {
			var err error
			grant, err = c.CreateGrant(ctx, &sdk.CreateGrantInput{
				KeyId: aws.String(id(key)), GranteePrincipal: aws.String("g"), Operations: []types.GrantOperation{"Decrypt"},
				Constraints: &types.GrantConstraints{EncryptionContextSubset: map[string]string{"Big": "Letter"}},
			})
			return err
		}, `{"keyId":"KEY","constraints":{"encryptionContextSubset":{"Big":"Letter"}},"granteePrincipal":"g","operations":["Decrypt"]}`, `{"grantId":"GRANT","keyId":"arn:aws:kms:eu-central-1:111122223333:key/KEY"}`, nil},
		{"RevokeGrant", func() error {
			_, err := c.RevokeGrant(ctx, &sdk.RevokeGrantInput{KeyId: aws.String(id(key)), GrantId: grant.GrantId})
			return err
		}, `{"keyId":"KEY","grantId":"GRANT"}`, keyARN, nil},
		{"DisableKey", func() error {
			_, err := c.DisableKey(ctx, &sdk.DisableKeyInput{KeyId: aws.String(id(key))})
			return err
		}, `{"keyId":"KEY"}`, keyARN, nil},
	} {
		w.take()
		if err := tc.call(); err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		e := w.last(t)
		stand := strings.NewReplacer(id(key), "KEY", id(other), "OTHER")
		if grant != nil {
			stand = strings.NewReplacer(id(key), "KEY", id(other), "OTHER", aws.ToString(grant.GrantId), "GRANT")
		}
		if e.DetailType != "AWS API Call via CloudTrail" || e.Source != "aws.kms" || e.Account != account || e.Region != region ||
			e.Detail.EventVersion != "1.11" || e.Detail.EventName != tc.name || e.Detail.EventType != "AwsApiCall" || e.Detail.ReadOnly {
			t.Errorf("%s: event %+v", tc.name, e)
		}
		if diff := cmp.Diff(tc.params, stand.Replace(string(e.Detail.RequestParameters))); diff != "" {
			t.Errorf("%s: requestParameters (-want +got):\n%s", tc.name, diff)
		}
		if diff := cmp.Diff(tc.response, stand.Replace(string(e.Detail.ResponseElements))); diff != "" {
			t.Errorf("%s: responseElements (-want +got):\n%s", tc.name, diff)
		}
		want := []resource{{"AWS::KMS::Key", key}}
		if tc.resources != nil {
			want = []resource{{"AWS::KMS::Key", tc.resources[0]}, {"AWS::KMS::Key", tc.resources[1]}}
		}
		if diff := cmp.Diff(want, e.Detail.Resources); diff != "" {
			t.Errorf("%s: resources (-want +got):\n%s", tc.name, diff)
		}
	}
}

// Every kind of key that AWS documents outside of China can be made, with its
// algorithms, and no other: see KeySpec and KeyUsage of CreateKey.
func TestKindsOfKeys(t *testing.T) {
	c := newWorld(t, trail.Settings{}).as("ADA")
	usages := map[types.KeySpec][]types.KeyUsageType{
		"SYMMETRIC_DEFAULT": {"ENCRYPT_DECRYPT"}, "HMAC_224": {"GENERATE_VERIFY_MAC"}, "HMAC_256": {"GENERATE_VERIFY_MAC"},
		"HMAC_384": {"GENERATE_VERIFY_MAC"}, "HMAC_512": {"GENERATE_VERIFY_MAC"},
		"RSA_2048": {"ENCRYPT_DECRYPT", "SIGN_VERIFY"}, "RSA_3072": {"ENCRYPT_DECRYPT", "SIGN_VERIFY"}, "RSA_4096": {"ENCRYPT_DECRYPT", "SIGN_VERIFY"},
		"ECC_NIST_P256": {"SIGN_VERIFY", "KEY_AGREEMENT"}, "ECC_NIST_P384": {"SIGN_VERIFY", "KEY_AGREEMENT"}, "ECC_NIST_P521": {"SIGN_VERIFY", "KEY_AGREEMENT"},
		"ECC_NIST_EDWARDS25519": {"SIGN_VERIFY"}, "ECC_SECG_P256K1": {"SIGN_VERIFY"},
		"ML_DSA_44": {"SIGN_VERIFY"}, "ML_DSA_65": {"SIGN_VERIFY"}, "ML_DSA_87": {"SIGN_VERIFY"},
		"ML_KEM_512": {"ENCAPSULATE_DECAPSULATE"}, "ML_KEM_768": {"ENCAPSULATE_DECAPSULATE"}, "ML_KEM_1024": {"ENCAPSULATE_DECAPSULATE"},
	}
	for _, spec := range types.KeySpec("").Values() {
		for _, usage := range types.KeyUsageType("").Values() {
			for _, origin := range []types.OriginType{types.OriginTypeAwsKms, types.OriginTypeExternal} {
				name := string(spec) + " " + string(usage) + " " + string(origin)
				out, err := c.CreateKey(t.Context(), &sdk.CreateKeyInput{KeySpec: spec, KeyUsage: usage, Origin: origin})
				if !slices.Contains(usages[spec], usage) {
					if code(err) != "ValidationException" {
						t.Errorf("%s: %v", name, err)
					}
					continue
				}
				if err != nil {
					t.Errorf("%s: %v", name, err)
					continue
				}
				state := map[types.OriginType]types.KeyState{types.OriginTypeAwsKms: types.KeyStateEnabled, types.OriginTypeExternal: types.KeyStatePendingImport}[origin]
				if m := out.KeyMetadata; m.KeySpec != spec || m.KeyUsage != usage || m.Origin != origin || m.KeyState != state ||
					len(m.EncryptionAlgorithms)+len(m.SigningAlgorithms)+len(m.MacAlgorithms)+len(m.KeyAgreementAlgorithms)+len(m.EncapsulationAlgorithms) == 0 {
					t.Errorf("%s: %+v", name, m)
				}
			}
		}
	}
}

// To tag a key while it is made takes the permission to tag, and its tags count
// where its policy is checked.
func TestCreateKeyWithTags(t *testing.T) {
	w := newWorld(t, trail.Settings{})
	tags := []types.Tag{{TagKey: aws.String("team"), TagValue: aws.String("a")}}
	if _, err := w.as("MAKER").CreateKey(t.Context(), &sdk.CreateKeyInput{}); err != nil {
		t.Errorf("without tags: %v", err)
	}
	if _, err := w.as("MAKER").CreateKey(t.Context(), &sdk.CreateKeyInput{Tags: tags}); code(err) != "AccessDeniedException" || !strings.Contains(err.Error(), "kms:TagResource") {
		t.Errorf("tags without the permission: %v", err)
	}
	policy := func(team string) *string {
		return aws.String(`{"Statement":{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*","Condition":{"StringEquals":{"aws:ResourceTag/team":"` + team + `"}}}}`)
	}
	if _, err := w.as("ADA").CreateKey(t.Context(), &sdk.CreateKeyInput{Tags: tags, Policy: policy("b")}); code(err) != "MalformedPolicyDocumentException" {
		t.Errorf("a policy for keys of another team: %v", err)
	}
	out, err := w.as("ADA").CreateKey(t.Context(), &sdk.CreateKeyInput{Tags: tags, Policy: policy("a")})
	if err != nil {
		t.Fatal(err)
	}
	listed, err := w.as("ADA").ListResourceTags(t.Context(), &sdk.ListResourceTagsInput{KeyId: out.KeyMetadata.KeyId})
	if err != nil || len(listed.Tags) != 1 || aws.ToString(listed.Tags[0].TagKey) != "team" || aws.ToString(listed.Tags[0].TagValue) != "a" {
		t.Errorf("tags %+v, %v", listed, err)
	}
}

// What is told about the use of a key that has none depends on when KMS began to record.
func TestUsageIsRecordedFromADate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newWorld(t, trail.Settings{}).as("ADA")
		began := time.Date(2026, time.April, 23, 0, 0, 0, 0, time.UTC)
		time.Sleep(time.Until(began.Add(-time.Hour)))
		before := create(t, c)
		time.Sleep(2 * time.Hour)
		after := create(t, c)
		for key, want := range map[string]time.Time{before: began, after: time.Now()} {
			out, err := c.GetKeyLastUsage(t.Context(), &sdk.GetKeyLastUsageInput{KeyId: &key})
			if err != nil {
				t.Fatal(err)
			}
			if got := aws.ToTime(out.TrackingStartDate); !got.Equal(want) || out.KeyLastUsage == nil || out.KeyLastUsage.Timestamp != nil {
				t.Errorf("recorded from %v, want %v; last use %+v", got, want, out.KeyLastUsage)
			}
		}
	})
}

func TestRecordOfCreateKey(t *testing.T) {
	w := newWorld(t, trail.Settings{})
	key := create(t, w.as("ADA"), func(in *sdk.CreateKeyInput) { in.Origin = types.OriginTypeExternal })
	e := w.last(t)
	if diff := cmp.Diff(`{"bypassPolicyLockoutSafetyCheck":false,"customerMasterKeySpec":"SYMMETRIC_DEFAULT","description":"","keySpec":"SYMMETRIC_DEFAULT","keyUsage":"ENCRYPT_DECRYPT","origin":"EXTERNAL"}`, string(e.Detail.RequestParameters)); diff != "" {
		t.Errorf("requestParameters (-want +got):\n%s", diff)
	}
	var response struct {
		KeyMetadata struct {
			AccountID string `json:"aWSAccountId"`
			ARN       string `json:"arn"`
			KeyState  string `json:"keyState"`
			Created   string `json:"creationDate"`
			Enabled   *bool  `json:"enabled"`
		} `json:"keyMetadata"`
	}
	if err := json.Unmarshal(e.Detail.ResponseElements, &response); err != nil {
		t.Fatal(err)
	}
	m := response.KeyMetadata
	if m.AccountID != account || m.ARN != key || m.KeyState != "PendingImport" || m.Enabled == nil || *m.Enabled {
		t.Errorf("responseElements %s", e.Detail.ResponseElements)
	}
	if _, err := time.Parse("Jan 2, 2006, 3:04:05 PM", m.Created); err != nil {
		t.Error(err)
	}
}

func TestRefusedCallsAreRecorded(t *testing.T) {
	w := newWorld(t, trail.Settings{})
	key := create(t, w.as("ADA"))
	for _, tc := range []struct {
		name, caller, code, recorded string
		call                         func(*sdk.Client) error
	}{
		{"denied", "READER", "AccessDeniedException", "AccessDenied", func(c *sdk.Client) error {
			_, err := c.DisableKey(t.Context(), &sdk.DisableKeyInput{KeyId: &key})
			return err
		}},
		{"not found", "ADA", "NotFoundException", "NotFoundException", func(c *sdk.Client) error {
			_, err := c.DisableKey(t.Context(), &sdk.DisableKeyInput{KeyId: aws.String("00000000-0000-0000-0000-000000000000")})
			return err
		}},
		{"state", "ADA", "KMSInvalidStateException", "KMSInvalidStateException", func(c *sdk.Client) error {
			_, err := c.CancelKeyDeletion(t.Context(), &sdk.CancelKeyDeletionInput{KeyId: &key})
			return err
		}},
		{"lock-out", "ADA", "MalformedPolicyDocumentException", "MalformedPolicyDocumentException", func(c *sdk.Client) error {
			_, err := c.PutKeyPolicy(t.Context(), &sdk.PutKeyPolicyInput{KeyId: &key, Policy: aws.String(`{"Statement":{"Effect":"Allow","Principal":"*","Action":"kms:Decrypt","Resource":"*"}}`)})
			return err
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w.take()
			if got := code(tc.call(w.as(tc.caller))); got != tc.code {
				t.Errorf("error %q, want %q", got, tc.code)
			}
			d := w.last(t).Detail
			if d.ErrorCode != tc.recorded || d.ErrorMessage == "" || string(d.ResponseElements) != "null" {
				t.Errorf("record %+v", d)
			}
			if denied := tc.name == "denied"; denied != (string(d.RequestParameters) == "null") || denied && (d.Resources != nil || !strings.Contains(d.ErrorMessage, key)) {
				t.Errorf("record of what was asked for: %+v", d)
			}
		})
	}
}

func TestReadOnlyCallsAreRecordedOnRequest(t *testing.T) {
	w := newWorld(t, trail.Settings{})
	c := w.as("ADA")
	key := create(t, c)
	w.take()
	describe := func() {
		if _, err := c.DescribeKey(t.Context(), &sdk.DescribeKeyInput{KeyId: &key}); err != nil {
			t.Fatal(err)
		}
	}
	describe()
	if got := w.take(); len(got) != 0 {
		t.Errorf("events %v", names(got))
	}
	w.trail.Set(trail.Settings{ReadOnly: true})
	describe()
	if e := w.last(t); !e.Detail.ReadOnly || e.Detail.EventName != "DescribeKey" || string(e.Detail.ResponseElements) != "null" {
		t.Errorf("event %+v", e)
	}
	if _, _, _, err := w.GenerateDataKey(callers["ADA"], key, map[string]string{"aws:s3:arn": "arn:aws:s3:::b/k"}); err != nil {
		t.Fatal(err)
	}
	d := w.last(t).Detail
	if d.EventName != "GenerateDataKey" || d.SourceIPAddress != "AWS Internal" || !strings.Contains(string(d.UserIdentity), `"invokedBy":"AWS Internal"`) ||
		!strings.Contains(string(d.RequestParameters), `"aws:s3:arn":"arn:aws:s3:::b/k"`) {
		t.Errorf("the record of a call by S3: %+v", d)
	}
}

func TestUserIdentity(t *testing.T) {
	w := newWorld(t, trail.Settings{})
	now := time.Now().UTC().Format("2006-01-02")
	for caller, want := range map[string]string{
		"ADA":  `{"type":"IAMUser","principalId":"AIDAADA","arn":"arn:aws:iam::111122223333:user/ada","accountId":"111122223333","accessKeyId":"ADA","userName":"ada"}`,
		"ROOT": `{"type":"Root","principalId":"111122223333","arn":"arn:aws:iam::111122223333:root","accountId":"111122223333","accessKeyId":"ROOT"}`,
		"CI": `{"type":"AssumedRole","principalId":"AROADEPLOY:run-1","arn":"arn:aws:sts::111122223333:assumed-role/deploy/run-1","accountId":"111122223333","accessKeyId":"CI",` +
			`"sessionContext":{"sessionIssuer":{"type":"Role","principalId":"AROADEPLOY","arn":"arn:aws:iam::111122223333:role/deploy","accountId":"111122223333","userName":"deploy"},` +
			`"attributes":{"creationDate":"TODAY","mfaAuthenticated":"false"}}}`,
	} {
		create(t, w.as(caller))
		got := string(w.last(t).Detail.UserIdentity)
		if i := strings.Index(got, now); i >= 0 {
			got = got[:i] + "TODAY" + got[i+len("2006-01-02T15:04:05Z"):]
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", caller, diff)
		}
	}
}

// A key whose window has passed is gone, with its aliases, and both events say
// so without anybody asking.
func TestDeletion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, trail.Settings{})
		c := w.as("ADA")
		key := create(t, c)
		if _, err := c.CreateAlias(t.Context(), &sdk.CreateAliasInput{AliasName: aws.String("alias/x"), TargetKeyId: &key}); err != nil {
			t.Fatal(err)
		}
		_, sealed, _, err := w.GenerateDataKey(callers["ADA"], key, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.ScheduleKeyDeletion(t.Context(), &sdk.ScheduleKeyDeletionInput{KeyId: &key, PendingWindowInDays: aws.Int32(7)}); err != nil {
			t.Fatal(err)
		}
		w.take()
		time.Sleep(7*24*time.Hour - time.Second)
		synctest.Wait()
		if got := w.take(); len(got) != 0 {
			t.Errorf("too early: %v", names(got))
		}
		time.Sleep(time.Second)
		synctest.Wait()
		events := w.take()
		if diff := cmp.Diff([]string{"AWS Service Event via CloudTrail DeleteKey", "KMS CMK Deletion"}, names(events)); diff != "" {
			t.Fatalf("events (-want +got):\n%s", diff)
		}
		d := events[0].Detail
		if d.EventType != "AwsServiceEvent" || string(d.UserIdentity) != `{"accountId":"111122223333","invokedBy":"AWS Internal"}` || d.Resources[0].ARN != key {
			t.Errorf("service event %+v", d)
		}
		if e := events[1]; e.Detail.KeyID != id(key) || e.Resources[0] != key {
			t.Errorf("native event %+v", e)
		}
		_, err = c.DescribeKey(t.Context(), &sdk.DescribeKeyInput{KeyId: aws.String("alias/x")})
		if code(err) != "NotFoundException" {
			t.Errorf("the alias: %v", err)
		}
		if _, _, err := w.Decrypt(callers["ADA"], sealed, nil); !wire.IsCode(err, "NotFoundException") {
			t.Errorf("decrypting for S3: %v", err)
		}
		_, err = c.Decrypt(t.Context(), &sdk.DecryptInput{CiphertextBlob: sealed})
		if code(err) != "AccessDeniedException" {
			t.Errorf("decrypting: %v", err)
		}
	})
}

func TestEndedWaitingDeletesTheKey(t *testing.T) {
	w := newWorld(t, trail.Settings{})
	c := w.as("ADA")
	key := create(t, c)
	w.EndWaiting(key) // which nobody has begun
	if _, err := c.ScheduleKeyDeletion(t.Context(), &sdk.ScheduleKeyDeletionInput{KeyId: &key, PendingWindowInDays: aws.Int32(7)}); err != nil {
		t.Fatal(err)
	}
	w.take()
	w.EndWaiting(key)
	if _, err := c.DescribeKey(t.Context(), &sdk.DescribeKeyInput{KeyId: &key}); code(err) != "NotFoundException" {
		t.Errorf("the key is still there: %v", err)
	}
	if diff := cmp.Diff([]string{"AWS Service Event via CloudTrail DeleteKey", "KMS CMK Deletion"}, names(w.take())); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

func TestCancelledDeletionLeavesTheKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, trail.Settings{})
		c := w.as("ADA")
		key := create(t, c)
		if _, err := c.ScheduleKeyDeletion(t.Context(), &sdk.ScheduleKeyDeletionInput{KeyId: &key, PendingWindowInDays: aws.Int32(7)}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.CancelKeyDeletion(t.Context(), &sdk.CancelKeyDeletionInput{KeyId: &key}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(8 * 24 * time.Hour)
		if out, err := c.DescribeKey(t.Context(), &sdk.DescribeKeyInput{KeyId: &key}); err != nil || out.KeyMetadata.KeyState != types.KeyStateDisabled {
			t.Errorf("the key: %v, %v", out, err)
		}
	})
}

func TestRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, trail.Settings{})
		c := w.as("ADA")
		key := create(t, c)
		if _, err := c.EnableKeyRotation(t.Context(), &sdk.EnableKeyRotationInput{KeyId: &key, RotationPeriodInDays: aws.Int32(90)}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.RotateKeyOnDemand(t.Context(), &sdk.RotateKeyOnDemandInput{KeyId: &key}); err != nil {
			t.Fatal(err)
		}
		w.take()
		time.Sleep(181 * 24 * time.Hour)
		synctest.Wait()
		events := w.take()
		out, err := c.ListKeyRotations(t.Context(), &sdk.ListKeyRotationsInput{KeyId: &key})
		if err != nil {
			t.Fatal(err)
		}
		var kinds []types.RotationType
		for _, r := range out.Rotations {
			kinds = append(kinds, r.RotationType)
		}
		if diff := cmp.Diff([]types.RotationType{"ON_DEMAND", "AUTOMATIC", "AUTOMATIC"}, kinds); diff != "" {
			t.Errorf("rotations (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]string{
			"AWS Service Event via CloudTrail RotateKey", "KMS CMK Rotation",
			"AWS Service Event via CloudTrail RotateKey", "KMS CMK Rotation",
		}, names(events)); diff != "" {
			t.Fatalf("events (-want +got):\n%s", diff)
		}
		if got := events[1].Detail; got.RotationType != "AUTOMATIC" || got.KeyID != id(key) {
			t.Errorf("native event %+v", got)
		}
		if !strings.Contains(string(events[0].Detail.ServiceEventDetails), `"rotationType":"AUTOMATIC"`) {
			t.Errorf("service event %s", events[0].Detail.ServiceEventDetails)
		}
	})
}

func TestRotationOnDemandIsLimited(t *testing.T) {
	w := newWorld(t, trail.Settings{})
	c := w.as("ADA")
	key := create(t, c)
	for range 25 {
		if _, err := c.RotateKeyOnDemand(t.Context(), &sdk.RotateKeyOnDemandInput{KeyId: &key}); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"AWS API Call via CloudTrail RotateKeyOnDemand", "AWS Service Event via CloudTrail RotateKey", "KMS CMK Rotation"}, names(w.take()[1:4])); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	_, err := c.RotateKeyOnDemand(t.Context(), &sdk.RotateKeyOnDemandInput{KeyId: &key})
	if code(err) != "LimitExceededException" {
		t.Errorf("the 26th: %v", err)
	}
}

func TestNoRotationOnDemandBeforeAnAutomaticOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, trail.Settings{})
		c := w.as("ADA")
		key := create(t, c)
		if _, err := c.EnableKeyRotation(t.Context(), &sdk.EnableKeyRotationInput{KeyId: &key, RotationPeriodInDays: aws.Int32(90)}); err != nil {
			t.Fatal(err)
		}
		rotate := func() string {
			_, err := c.RotateKeyOnDemand(t.Context(), &sdk.RotateKeyOnDemandInput{KeyId: &key})
			return code(err)
		}
		time.Sleep(90*24*time.Hour - 21*time.Minute)
		got := []string{rotate()}
		time.Sleep(time.Minute)
		got = append(got, rotate())
		time.Sleep(20 * time.Minute)
		got = append(got, rotate())
		if diff := cmp.Diff([]string{"", "ConflictException", ""}, got); diff != "" {
			t.Errorf("21 and 20 minutes before, and after the rotation (-want +got):\n%s", diff)
		}
	})
}

// bring imports key material that consists of one byte.
func bring(t *testing.T, c *sdk.Client, key string, secret byte, change func(*sdk.ImportKeyMaterialInput)) error {
	t.Helper()
	parameters, err := c.GetParametersForImport(t.Context(), &sdk.GetParametersForImportInput{
		KeyId: &key, WrappingAlgorithm: types.AlgorithmSpecRsaesOaepSha256, WrappingKeySpec: types.WrappingKeySpecRsa2048,
	})
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.ParsePKIXPublicKey(parameters.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	wrapped, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, public.(*rsa.PublicKey), bytes.Repeat([]byte{secret}, 32), nil)
	if err != nil {
		t.Fatal(err)
	}
	in := &sdk.ImportKeyMaterialInput{KeyId: &key, ImportToken: parameters.ImportToken, EncryptedKeyMaterial: wrapped}
	change(in)
	_, err = c.ImportKeyMaterial(t.Context(), in)
	return err
}

func TestImportRefusesWhatDoesNotFit(t *testing.T) {
	c := newWorld(t, trail.Settings{}).as("ADA")
	key := create(t, c, func(in *sdk.CreateKeyInput) { in.Origin = types.OriginTypeExternal })
	for i, tc := range []struct {
		secret byte
		change func(*sdk.ImportKeyMaterialInput)
		want   string
	}{
		{1, func(in *sdk.ImportKeyMaterialInput) { in.ImportType = "EXISTING_KEY_MATERIAL" }, "IncorrectKeyMaterialException"},
		{1, func(in *sdk.ImportKeyMaterialInput) {
			in.ExpirationModel, in.ValidTo = "KEY_MATERIAL_EXPIRES", aws.Time(time.Now().Add(366*24*time.Hour))
		}, "ValidationException"},
		{1, func(in *sdk.ImportKeyMaterialInput) {
			in.ImportType, in.KeyMaterialId = "NEW_KEY_MATERIAL", aws.String("x")
		}, "ValidationException"},
		{1, func(in *sdk.ImportKeyMaterialInput) { in.ImportType = "OTHER" }, "ValidationException"},
		{1, func(*sdk.ImportKeyMaterialInput) {}, ""},
		{2, func(*sdk.ImportKeyMaterialInput) {}, "IncorrectKeyMaterialException"},
		{1, func(in *sdk.ImportKeyMaterialInput) { in.ImportType = "NEW_KEY_MATERIAL" }, "IncorrectKeyMaterialException"},
		{2, func(in *sdk.ImportKeyMaterialInput) { in.ImportType = "NEW_KEY_MATERIAL" }, ""},
		{3, func(in *sdk.ImportKeyMaterialInput) { in.ImportType = "NEW_KEY_MATERIAL" }, "KMSInvalidStateException"}, // one is waiting
	} {
		err := bring(t, c, key, tc.secret, func(in *sdk.ImportKeyMaterialInput) {
			in.ExpirationModel = "KEY_MATERIAL_DOES_NOT_EXPIRE"
			tc.change(in)
		})
		if got := code(err); got != tc.want {
			t.Errorf("%d: got %q (%v), want %q", i, got, err, tc.want)
		}
	}
}

// A multi-Region key rotates to imported material once its replicas have it, and
// material in a replica alone is not new material.
func TestImportedMaterialOfAMultiRegionKey(t *testing.T) {
	w := newWorld(t, trail.Settings{})
	c := w.as("ADA")
	key := create(t, c, func(in *sdk.CreateKeyInput) { in.Origin, in.MultiRegion = types.OriginTypeExternal, aws.Bool(true) })
	as := func(kind types.ImportType) func(*sdk.ImportKeyMaterialInput) {
		return func(in *sdk.ImportKeyMaterialInput) {
			in.ImportType, in.ExpirationModel = kind, types.ExpirationModelTypeKeyMaterialDoesNotExpire
		}
	}
	if err := bring(t, c, key, 1, as(types.ImportTypeNewKeyMaterial)); err != nil {
		t.Fatal(err)
	}
	for _, region := range []string{"us-west-2", "us-east-1"} {
		if _, err := c.ReplicateKey(t.Context(), &sdk.ReplicateKeyInput{KeyId: &key, ReplicaRegion: &region}); err != nil {
			t.Fatal(err)
		}
	}
	if err := bring(t, c, key, 2, as(types.ImportTypeNewKeyMaterial)); err != nil {
		t.Fatal(err)
	}
	check := func(state types.KeyMaterialState, rotate string) {
		t.Helper()
		out, err := c.ListKeyRotations(t.Context(), &sdk.ListKeyRotationsInput{KeyId: &key, IncludeKeyMaterial: types.IncludeKeyMaterialAllKeyMaterial})
		if err != nil {
			t.Fatal(err)
		}
		if got := out.Rotations[len(out.Rotations)-1].KeyMaterialState; got != state {
			t.Errorf("the new material is %s, want %s", got, state)
		}
		if _, err := c.RotateKeyOnDemand(t.Context(), &sdk.RotateKeyOnDemandInput{KeyId: &key}); code(err) != rotate {
			t.Errorf("rotation: %v, want %q", err, rotate)
		}
	}
	check(types.KeyMaterialStatePendingMultiRegionImportAndRotation, "KMSInvalidStateException")
	w.ImportIntoReplica(key, "us-west-2")
	check(types.KeyMaterialStatePendingMultiRegionImportAndRotation, "KMSInvalidStateException")
	w.ImportIntoReplica(key, "us-east-1")
	check(types.KeyMaterialStatePendingRotation, "")

	if _, err := c.UpdatePrimaryRegion(t.Context(), &sdk.UpdatePrimaryRegionInput{KeyId: &key, PrimaryRegion: aws.String("us-west-2")}); err != nil {
		t.Fatal(err)
	}
	if err := bring(t, c, key, 3, as(types.ImportTypeNewKeyMaterial)); code(err) != "UnsupportedOperationException" {
		t.Errorf("new material for a replica: %v", err)
	}
}

// Imported material that expires takes the key out of use and says so; the same
// material brings it back.
func TestImportedMaterialExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, trail.Settings{})
		c := w.as("ADA")
		key := create(t, c, func(in *sdk.CreateKeyInput) { in.Origin = types.OriginTypeExternal })
		importMaterial := func() {
			t.Helper()
			if err := bring(t, c, key, 7, func(in *sdk.ImportKeyMaterialInput) { in.ValidTo = aws.Time(time.Now().Add(time.Hour)) }); err != nil {
				t.Fatal(err)
			}
		}
		state := func() types.KeyState {
			t.Helper()
			out, err := c.DescribeKey(t.Context(), &sdk.DescribeKeyInput{KeyId: &key})
			if err != nil {
				t.Fatal(err)
			}
			return out.KeyMetadata.KeyState
		}
		importMaterial()
		if got := state(); got != types.KeyStateEnabled {
			t.Errorf("after the import: %s", got)
		}
		w.take()
		time.Sleep(time.Hour)
		synctest.Wait()
		events := w.take()
		if diff := cmp.Diff([]string{"AWS Service Event via CloudTrail DeleteExpiredKeyMaterial", "KMS Imported Key Material Expiration"}, names(events)); diff != "" {
			t.Fatalf("events (-want +got):\n%s", diff)
		}
		if got := events[1].Detail.KeyID; got != id(key) {
			t.Errorf("native event of %q", got)
		}
		if got := state(); got != types.KeyStatePendingImport {
			t.Errorf("after the expiry: %s", got)
		}
		importMaterial()
		if got := state(); got != types.KeyStateEnabled {
			t.Errorf("after importing again: %s", got)
		}
	})
}

// The account that owns a key hears of another account's call when it succeeds.
func TestRecordsOfAnotherAccount(t *testing.T) {
	w := newWorld(t, trail.Settings{})
	policy := `{"Statement":{"Effect":"Allow","Principal":{"AWS":["444455556666","` + account + `"]},"Action":"kms:*","Resource":"*"}}`
	open, closed := create(t, w.as("ADA"), func(in *sdk.CreateKeyInput) { in.Policy = &policy }), create(t, w.as("ADA"))
	w.take()
	for _, key := range []string{open, closed} {
		_, _ = w.as("FOREIGN").DisableKey(t.Context(), &sdk.DisableKeyInput{KeyId: &key}) // the records tell the outcome
	}
	events := w.take()
	if len(events) != 1 || events[0].Detail.Resources[0].ARN != open || events[0].Detail.SharedEventID == "" {
		t.Fatalf("events %+v", events)
	}
	if diff := cmp.Diff(`{"type":"AWSAccount","principalId":"AIDAEVE","accountId":"444455556666"}`, string(events[0].Detail.UserIdentity)); diff != "" {
		t.Errorf("userIdentity (-want +got):\n%s", diff)
	}
}

func TestTrail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, trail.Settings{Delay: time.Minute, Jitter: time.Minute, Duplicates: 1, Seed: 7})
		c := w.as("ADA")
		for range 10 {
			create(t, c)
		}
		time.Sleep(time.Minute - time.Nanosecond)
		synctest.Wait()
		if got := w.take(); len(got) != 0 {
			t.Errorf("%d events before the delay", len(got))
		}
		time.Sleep(time.Minute + time.Nanosecond)
		synctest.Wait()
		got := w.take()
		first := map[string]int{}
		disorder := false
		for i, e := range got {
			first[e.ID]++
			disorder = disorder || i > 0 && e.Detail.EventID != got[i-1].Detail.EventID && first[e.ID] > 1
		}
		if len(got) != 20 || len(first) != 10 {
			t.Errorf("%d events of %d ids", len(got), len(first))
		}
		if !disorder {
			t.Error("the copies came one after the other")
		}
		create(t, c)
		w.trail.Close()
		time.Sleep(time.Hour)
		if got := w.take(); len(got) != 0 {
			t.Errorf("%d events after Close", len(got))
		}
	})
}

func TestKeyPolicyIsEnforced(t *testing.T) {
	allow := func(principal string) string {
		return `{"Effect":"Allow","Principal":{"AWS":"` + principal + `"},"Action":"kms:*","Resource":"*"}`
	}
	const (
		rootARN = "arn:aws:iam::" + account + ":root"
		roleARN = "arn:aws:iam::" + account + ":role/deploy"
	)
	for _, tc := range []struct {
		name, statements, caller, want string
	}{
		{"the account delegates to the identity policy", allow(rootARN), "ADA", ""},
		{"and the identity policy says no", allow(rootARN), "READER", "AccessDeniedException"},
		{"the policy names the caller", allow(rootARN) + "," + allow("arn:aws:iam::"+account+":user/reader"), "READER", ""},
		{"the policy names the role", allow(roleARN), "CI", ""},
		{"the policy names somebody else", allow(roleARN), "ADA", "AccessDeniedException"},
		{"a deny wins", allow(rootARN) + `,{"Effect":"Deny","Principal":"*","Action":"kms:DisableKey","Resource":"*"}`, "ADA", "AccessDeniedException"},
		{"another account is not named", allow(rootARN), "FOREIGN", "AccessDeniedException"},
		{"another account is named", allow(rootARN) + "," + allow("444455556666"), "FOREIGN", ""},
		{"a condition of the request", allow(roleARN) + `,{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*","Condition":{"StringEquals":{"kms:CallerAccount":"` + account + `"}}}`, "ADA", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t, trail.Settings{})
			policy := `{"Version":"2012-10-17","Statement":[` + tc.statements + `]}`
			key := create(t, w.as("ROOT"), func(in *sdk.CreateKeyInput) { in.Policy, in.BypassPolicyLockoutSafetyCheck = &policy, true })
			_, err := w.as(tc.caller).DisableKey(t.Context(), &sdk.DisableKeyInput{KeyId: &key})
			if got := code(err); got != tc.want {
				t.Errorf("got %q (%v), want %q", got, err, tc.want)
			}
		})
	}
}

func TestGrantsAllow(t *testing.T) {
	w := newWorld(t, trail.Settings{})
	key := create(t, w.as("ADA"))
	encrypt := func(about map[string]string) string {
		_, err := w.as("READER").Encrypt(t.Context(), &sdk.EncryptInput{KeyId: &key, Plaintext: []byte("x"), EncryptionContext: about})
		return code(err)
	}
	if got := encrypt(nil); got != "AccessDeniedException" {
		t.Errorf("without a grant: %q", got)
	}
	grant, err := w.as("ADA").CreateGrant(t.Context(), &sdk.CreateGrantInput{
		KeyId: &key, GranteePrincipal: aws.String(callers["READER"].ARN), RetiringPrincipal: aws.String(callers["CI"].ARN),
		Operations:  []types.GrantOperation{types.GrantOperationEncrypt},
		Constraints: &types.GrantConstraints{EncryptionContextEquals: map[string]string{"a": "b"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := encrypt(map[string]string{"a": "b"}); got != "" {
		t.Errorf("with a grant: %q", got)
	}
	if got := encrypt(map[string]string{"a": "b", "c": "d"}); got != "AccessDeniedException" {
		t.Errorf("outside of its constraints: %q", got)
	}
	if _, err := w.as("READER").RetireGrant(t.Context(), &sdk.RetireGrantInput{GrantToken: grant.GrantToken}); code(err) != "AccessDeniedException" {
		t.Errorf("retired by another: %v", err)
	}
	w.take()
	if _, err := w.as("CI").RetireGrant(t.Context(), &sdk.RetireGrantInput{GrantToken: grant.GrantToken}); err != nil {
		t.Fatal(err)
	}
	if d := w.last(t).Detail; string(d.AdditionalEventData) != `{"grantId":"`+aws.ToString(grant.GrantId)+`"}` || strings.Contains(string(d.RequestParameters), "oken") {
		t.Errorf("record %+v", d)
	}
	if got := encrypt(map[string]string{"a": "b"}); got != "AccessDeniedException" {
		t.Errorf("after retiring: %q", got)
	}
}

func TestForS3(t *testing.T) {
	w := newWorld(t, trail.Settings{})
	c := w.as("ADA")
	from, to := create(t, c), create(t, c)
	about := map[string]string{"aws:s3:arn": "arn:aws:s3:::bucket/key"}
	plaintext, sealed, arn, err := w.GenerateDataKey(callers["ADA"], id(from), about)
	if err != nil || arn != from || len(plaintext) != 32 {
		t.Fatalf("data key of %d bytes under %q: %v", len(plaintext), arn, err)
	}
	moved, arn, err := w.ReEncrypt(callers["ADA"], sealed, about, to, about)
	if err != nil || arn != to {
		t.Fatalf("moved to %q: %v", arn, err)
	}
	if _, err := c.DisableKey(t.Context(), &sdk.DisableKeyInput{KeyId: &from}); err != nil {
		t.Fatal(err)
	}
	opened, arn, err := w.Decrypt(callers["ADA"], moved, about)
	if err != nil || arn != to || string(opened) != string(plaintext) {
		t.Errorf("the moved key opens under %q: %v", arn, err)
	}
	if _, _, err := w.Decrypt(callers["ADA"], sealed, about); !wire.IsCode(err, "DisabledException") {
		t.Errorf("under the disabled key: %v", err)
	}
	if _, _, err := w.Decrypt(callers["ADA"], moved, nil); !wire.IsCode(err, "InvalidCiphertextException") {
		t.Errorf("with another context: %v", err)
	}
	if _, _, err := w.Decrypt(callers["READER"], moved, about); !wire.IsCode(err, "AccessDeniedException") {
		t.Errorf("by a reader: %v", err)
	}
	if _, err := w.ResolveKey("alias/none"); !wire.IsCode(err, "NotFoundException") {
		t.Errorf("an unknown alias: %v", err)
	}
}

// The AWS managed key works through S3 and cannot be changed or used directly.
func TestManagedKey(t *testing.T) {
	w := newWorld(t, trail.Settings{})
	c := w.as("ADA")
	arn, err := w.ResolveKey("alias/aws/s3")
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.DescribeKey(t.Context(), &sdk.DescribeKeyInput{KeyId: aws.String("alias/aws/s3")})
	if err != nil || out.KeyMetadata.KeyManager != types.KeyManagerTypeAws || aws.ToString(out.KeyMetadata.Arn) != arn {
		t.Fatalf("described: %v, %v", out, err)
	}
	if status, err := c.GetKeyRotationStatus(t.Context(), &sdk.GetKeyRotationStatusInput{KeyId: &arn}); err != nil || !status.KeyRotationEnabled {
		t.Errorf("rotation: %v, %v", status, err)
	}
	if _, _, _, err := w.GenerateDataKey(callers["ADA"], arn, nil); err != nil {
		t.Errorf("through S3: %v", err)
	}
	if _, err := c.Encrypt(t.Context(), &sdk.EncryptInput{KeyId: &arn, Plaintext: []byte("x")}); code(err) != "AccessDeniedException" {
		t.Errorf("directly: %v", err)
	}
	if _, err := c.DisableKey(t.Context(), &sdk.DisableKeyInput{KeyId: &arn}); code(err) != "AccessDeniedException" {
		t.Errorf("disabling: %v", err)
	}
	if _, err := w.as("ROOT").ScheduleKeyDeletion(t.Context(), &sdk.ScheduleKeyDeletionInput{KeyId: &arn}); code(err) != "AccessDeniedException" {
		t.Errorf("deleting: %v", err)
	}
}

func TestKeysOfOtherPlaces(t *testing.T) {
	w := newWorld(t, trail.Settings{})
	for arn, want := range map[string]string{
		"arn:aws:kms:us-east-1:" + account + ":key/x":           "NotFoundException",
		"arn:aws:kms:" + region + ":444455556666:key/x":         "AccessDeniedException",
		"arn:aws:sqs:" + region + ":" + account + ":x":          "InvalidArnException",
		"arn:aws:kms:" + region + ":" + account + ":grant/x":    "InvalidArnException",
		"arn:aws:kms:" + region + ":" + account + ":alias/none": "NotFoundException",
	} {
		_, err := w.as("ADA").DescribeKey(t.Context(), &sdk.DescribeKeyInput{KeyId: &arn})
		if got := code(err); got != want {
			t.Errorf("%s: got %q, want %q", arn, got, want)
		}
	}
}
