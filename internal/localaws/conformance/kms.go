package conformance

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"
	"github.com/google/go-cmp/cmp"
)

// KMSDeviations are the known ways in which the KMS of moto 5.2 and LocalStack
// 4.14 is not like AWS's.
type KMSDeviations struct {
	// KMSNoStates: few operations check the state of the key (moto, LocalStack).
	KMSNoStates bool
	// KMSUnusableKeysWork: a disabled key decrypts and encrypts (moto).
	KMSUnusableKeysWork bool
	// KMSSparseAnswers: members of answers are missing, such as the key's state
	// after ScheduleKeyDeletion (moto).
	KMSSparseAnswers bool
	// KMSRangesUnchecked: periods, windows or page sizes out of range are taken
	// (moto, LocalStack).
	KMSRangesUnchecked bool
	// KMSRotationWhilePending: the rotation status stays true while a deletion
	// is pending (moto, LocalStack).
	KMSRotationWhilePending bool
	// KMSForgetsRotationPeriod: the status has no period of its own (moto).
	KMSForgetsRotationPeriod bool
	// KMSRotatesAnyKey: keys rotate that are not symmetric or whose material is
	// imported (moto, LocalStack).
	KMSRotatesAnyKey bool
	// KMSNoKeyMaterialIDs: key material has neither id nor state (moto).
	KMSNoKeyMaterialIDs bool
	// KMSPolicyNameRequired: a call without PolicyName fails (moto, LocalStack).
	KMSPolicyNameRequired bool
	// KMSPolicyUnchecked: any policy document is taken, and none is enforced
	// (moto, LocalStack).
	KMSPolicyUnchecked bool
	// KMSAliasUnchecked: names and targets of aliases are hardly checked (moto).
	KMSAliasUnchecked bool
	// KMSAliasPagingIgnored: ListAliases answers in one page (moto).
	KMSAliasPagingIgnored bool
	// KMSTagPagingIgnored: ListResourceTags answers in one page (moto).
	KMSTagPagingIgnored bool
	// KMSNoIncorrectKey: Decrypt with another key than the ciphertext's has
	// another error (moto).
	KMSNoIncorrectKey bool
	// KMSKeyUsageUnchecked: any key encrypts (moto).
	KMSKeyUsageUnchecked bool
	// KMSDryRunIgnored: a dry run does what it should only check (moto, LocalStack).
	KMSDryRunIgnored bool
	// KMSReEncryptNeedsSource: ReEncrypt fails without SourceKeyId (LocalStack).
	KMSReEncryptNeedsSource bool
	// KMSGrantNamesIgnored: a grant that is made twice exists twice (moto).
	KMSGrantNamesIgnored bool
	// KMSRevokedGrantCode: to revoke a grant that is gone has another error (LocalStack).
	KMSRevokedGrantCode bool
	// KMSNoImport: key material cannot be imported (moto).
	KMSNoImport bool
	// KMSNoReplicas: the keys of several Regions are not kept together (moto).
	KMSNoReplicas bool
	// KMSNoPrimaryUpdate: UpdatePrimaryRegion answers 501 (LocalStack).
	KMSNoPrimaryUpdate bool
	// KMSNoRotationList: ListKeyRotations answers 501 (LocalStack).
	KMSNoRotationList bool
	// KMSNoLastUsage: GetKeyLastUsage is missing (moto, LocalStack).
	KMSNoLastUsage bool
}

// runKMS states what KMS does. Keys that it makes are left behind where the
// server has no faster way than the seven days of a deletion.
func runKMS(t *testing.T, target Target) {
	k := kmsSuite{target: target, client: kms.NewFromConfig(target.Config)}
	for _, part := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"Keys", k.keys},
		{"States", k.states},
		{"Deletion", k.deletion},
		{"Rotation", k.rotation},
		{"RotationOnDemand", k.rotationOnDemand},
		{"Policy", k.policy},
		{"Aliases", k.aliases},
		{"Encryption", k.encryption},
		{"ReEncrypt", k.reEncrypt},
		{"Grants", k.grants},
		{"Tags", k.tags},
		{"Paging", k.paging},
		{"ImportedMaterial", k.importedMaterial},
		{"MultiRegion", k.multiRegion},
		{"Usage", k.usage},
	} {
		t.Run(part.name, part.run)
	}
}

type kmsSuite struct {
	target Target
	client *kms.Client
}

// create makes a key and returns its ARN.
func (k kmsSuite) create(t *testing.T, change ...func(*kms.CreateKeyInput)) string {
	t.Helper()
	in := &kms.CreateKeyInput{}
	for _, f := range change {
		f(in)
	}
	out, err := k.client.CreateKey(t.Context(), in)
	if err != nil {
		t.Fatalf("create key: %v", err)
	}
	return aws.ToString(out.KeyMetadata.Arn)
}

func external(in *kms.CreateKeyInput) { in.Origin = types.OriginTypeExternal }

func rsaKey(in *kms.CreateKeyInput) {
	in.KeySpec, in.KeyUsage = types.KeySpecRsa2048, types.KeyUsageTypeEncryptDecrypt
}

func multiRegion(in *kms.CreateKeyInput) { in.MultiRegion = aws.Bool(true) }

func (k kmsSuite) describe(t *testing.T, ref string) *types.KeyMetadata {
	t.Helper()
	out, err := k.client.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &ref})
	if err != nil {
		t.Fatalf("describe key: %v", err)
	}
	return out.KeyMetadata
}

func (k kmsSuite) disable(t *testing.T, ref string) {
	t.Helper()
	if _, err := k.client.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: aws.String(id(ref))}); err != nil {
		t.Fatalf("disable key: %v", err)
	}
}

func (k kmsSuite) scheduleDeletion(t *testing.T, ref string) {
	t.Helper()
	if _, err := k.client.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: aws.String(id(ref)), PendingWindowInDays: aws.Int32(7)}); err != nil {
		t.Fatalf("schedule deletion: %v", err)
	}
}

func (k kmsSuite) alias(t *testing.T, ref string) string {
	t.Helper()
	name := "alias/conformance-" + rand.Text()
	if _, err := k.client.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: &name, TargetKeyId: &ref}); err != nil {
		t.Fatalf("create alias: %v", err)
	}
	return name
}

// code is the error's AWS code, "" for success.
func code(err error) string {
	var api smithy.APIError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &api):
		return api.ErrorCode()
	}
	return err.Error()
}

// wantCode checks that the operation ended with the code ("" for success).
func wantCode(t *testing.T, err error, want string) {
	t.Helper()
	if got := code(err); got != want {
		t.Errorf("got %q (%v), want %q", got, err, want)
	}
}

func id(arn string) string { return arn[strings.LastIndexByte(arn, '/')+1:] }

func (k kmsSuite) keys(t *testing.T) {
	created, err := k.client.CreateKey(t.Context(), &kms.CreateKeyInput{Description: aws.String("first")})
	if err != nil {
		t.Fatal(err)
	}
	m := created.KeyMetadata
	arn := aws.ToString(m.Arn)
	prefix := "arn:aws:kms:" + k.target.Config.Region + ":" + k.target.Account + ":key/"
	if arn != prefix+aws.ToString(m.KeyId) || aws.ToString(m.AWSAccountId) != k.target.Account {
		t.Errorf("ARN %q, id %q", arn, aws.ToString(m.KeyId))
	}
	if sparse := k.target.Deviations.KMSSparseAnswers; !m.Enabled || !sparse && (m.KeyState != types.KeyStateEnabled || m.KeyManager != types.KeyManagerTypeCustomer ||
		m.KeySpec != types.KeySpecSymmetricDefault || m.KeyUsage != types.KeyUsageTypeEncryptDecrypt || m.Origin != types.OriginTypeAwsKms) {
		t.Errorf("a new key is %+v", m)
	}
	if age := time.Since(aws.ToTime(m.CreationDate)); age < -time.Minute || age > time.Minute {
		t.Errorf("created %v", m.CreationDate)
	}
	if got := aws.ToString(k.describe(t, id(arn)).Arn); got != arn {
		t.Errorf("by id: %q", got)
	}
	if _, err := k.client.UpdateKeyDescription(t.Context(), &kms.UpdateKeyDescriptionInput{KeyId: &arn, Description: aws.String("second")}); err != nil {
		t.Error(err)
	}
	if got := aws.ToString(k.describe(t, arn).Description); got != "second" {
		t.Errorf("description %q", got)
	}
	_, err = k.client.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: aws.String("00000000-1111-2222-3333-444444444444")})
	wantCode(t, err, "NotFoundException")
	_, err = k.client.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: aws.String("alias/no-such-alias")})
	wantCode(t, err, "NotFoundException")

	m = k.describe(t, k.create(t, rsaKey))
	if diff := cmp.Diff([]types.EncryptionAlgorithmSpec{types.EncryptionAlgorithmSpecRsaesOaepSha1, types.EncryptionAlgorithmSpecRsaesOaepSha256}, m.EncryptionAlgorithms); diff != "" {
		t.Errorf("RSA algorithms (-want +got):\n%s", diff)
	}
	if !k.target.Deviations.KMSKeyUsageUnchecked {
		_, err = k.client.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: types.KeySpecEccNistP256})
		wantCode(t, err, "ValidationException")
	}
}

// states is the guide's "Key state table", as far as it is about operations that
// every server models.
func (k kmsSuite) states(t *testing.T) {
	if k.target.Deviations.KMSNoStates {
		t.Skip("deviation KMSNoStates: this server checks a key's state in few operations")
	}
	const (
		ok       = ""
		disabled = "DisabledException"
		invalid  = "KMSInvalidStateException"
		unusable = "UnsupportedOperationException"
	)
	enabled := k.create(t)
	data, err := k.client.GenerateDataKey(t.Context(), &kms.GenerateDataKeyInput{KeyId: &enabled, KeySpec: types.DataKeySpecAes256})
	if err != nil {
		t.Fatal(err)
	}
	prepare := map[types.KeyState]func(*testing.T) string{
		types.KeyStateEnabled: func(t *testing.T) string { return k.create(t) },
		types.KeyStateDisabled: func(t *testing.T) string {
			arn := k.create(t)
			k.disable(t, arn)
			return arn
		},
		types.KeyStatePendingDeletion: func(t *testing.T) string {
			arn := k.create(t)
			k.scheduleDeletion(t, arn)
			return arn
		},
		types.KeyStatePendingImport: func(t *testing.T) string { return k.create(t, external) },
	}
	for _, tc := range []struct {
		operation string
		call      func(t *testing.T, arn string) error
		want      map[types.KeyState]string
	}{
		{"CancelKeyDeletion", func(t *testing.T, arn string) error {
			_, err := k.client.CancelKeyDeletion(t.Context(), &kms.CancelKeyDeletionInput{KeyId: &arn})
			return err
		}, map[types.KeyState]string{"Enabled": invalid, "Disabled": invalid, "PendingDeletion": ok, "PendingImport": invalid}},
		{"CreateAlias", func(t *testing.T, arn string) error {
			_, err := k.client.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: aws.String("alias/conformance-" + rand.Text()), TargetKeyId: &arn})
			return err
		}, map[types.KeyState]string{"Enabled": ok, "Disabled": ok, "PendingDeletion": invalid, "PendingImport": ok}},
		{"CreateGrant", func(t *testing.T, arn string) error {
			_, err := k.client.CreateGrant(t.Context(), &kms.CreateGrantInput{
				KeyId: &arn, GranteePrincipal: aws.String("arn:aws:iam::" + k.target.Account + ":root"), Operations: []types.GrantOperation{types.GrantOperationDecrypt},
			})
			return err
		}, map[types.KeyState]string{"Enabled": ok, "Disabled": disabled, "PendingDeletion": invalid, "PendingImport": invalid}},
		{"DescribeKey", func(t *testing.T, arn string) error {
			_, err := k.client.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &arn})
			return err
		}, map[types.KeyState]string{"Enabled": ok, "Disabled": ok, "PendingDeletion": ok, "PendingImport": ok}},
		{"DisableKey", func(t *testing.T, arn string) error {
			_, err := k.client.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &arn})
			return err
		}, map[types.KeyState]string{"Enabled": ok, "Disabled": ok, "PendingDeletion": invalid, "PendingImport": invalid}},
		{"DisableKeyRotation", func(t *testing.T, arn string) error {
			_, err := k.client.DisableKeyRotation(t.Context(), &kms.DisableKeyRotationInput{KeyId: &arn})
			return err
		}, map[types.KeyState]string{"Enabled": ok, "Disabled": disabled, "PendingDeletion": invalid, "PendingImport": unusable}},
		{"EnableKey", func(t *testing.T, arn string) error {
			_, err := k.client.EnableKey(t.Context(), &kms.EnableKeyInput{KeyId: &arn})
			return err
		}, map[types.KeyState]string{"Enabled": ok, "Disabled": ok, "PendingDeletion": invalid, "PendingImport": invalid}},
		{"EnableKeyRotation", func(t *testing.T, arn string) error {
			_, err := k.client.EnableKeyRotation(t.Context(), &kms.EnableKeyRotationInput{KeyId: &arn})
			return err
		}, map[types.KeyState]string{"Enabled": ok, "Disabled": disabled, "PendingDeletion": invalid, "PendingImport": unusable}},
		{"Encrypt", func(t *testing.T, arn string) error {
			_, err := k.client.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &arn, Plaintext: []byte("x")})
			return err
		}, map[types.KeyState]string{"Enabled": ok, "Disabled": disabled, "PendingDeletion": invalid, "PendingImport": invalid}},
		{"GenerateDataKey", func(t *testing.T, arn string) error {
			_, err := k.client.GenerateDataKey(t.Context(), &kms.GenerateDataKeyInput{KeyId: &arn, KeySpec: types.DataKeySpecAes256})
			return err
		}, map[types.KeyState]string{"Enabled": ok, "Disabled": disabled, "PendingDeletion": invalid, "PendingImport": invalid}},
		{"GetKeyPolicy", func(t *testing.T, arn string) error {
			_, err := k.client.GetKeyPolicy(t.Context(), &kms.GetKeyPolicyInput{KeyId: &arn, PolicyName: aws.String("default")})
			return err
		}, map[types.KeyState]string{"Enabled": ok, "Disabled": ok, "PendingDeletion": ok, "PendingImport": ok}},
		{"GetKeyRotationStatus", func(t *testing.T, arn string) error {
			_, err := k.client.GetKeyRotationStatus(t.Context(), &kms.GetKeyRotationStatusInput{KeyId: &arn})
			return err
		}, map[types.KeyState]string{"Enabled": ok, "Disabled": ok, "PendingDeletion": ok, "PendingImport": unusable}},
		{"ListGrants", func(t *testing.T, arn string) error {
			_, err := k.client.ListGrants(t.Context(), &kms.ListGrantsInput{KeyId: &arn})
			return err
		}, map[types.KeyState]string{"Enabled": ok, "Disabled": ok, "PendingDeletion": ok, "PendingImport": ok}},
		{"ReEncryptTo", func(t *testing.T, arn string) error {
			_, err := k.client.ReEncrypt(t.Context(), &kms.ReEncryptInput{SourceKeyId: &enabled, CiphertextBlob: data.CiphertextBlob, DestinationKeyId: &arn})
			return err
		}, map[types.KeyState]string{"Enabled": ok, "Disabled": disabled, "PendingDeletion": invalid, "PendingImport": invalid}},
		{"RotateKeyOnDemand", func(t *testing.T, arn string) error {
			_, err := k.client.RotateKeyOnDemand(t.Context(), &kms.RotateKeyOnDemandInput{KeyId: &arn})
			return err
		}, map[types.KeyState]string{"Enabled": ok, "Disabled": disabled, "PendingDeletion": invalid, "PendingImport": invalid}},
		{"ScheduleKeyDeletion", func(t *testing.T, arn string) error {
			_, err := k.client.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: &arn})
			return err
		}, map[types.KeyState]string{"Enabled": ok, "Disabled": ok, "PendingDeletion": invalid, "PendingImport": ok}},
		{"TagResource", func(t *testing.T, arn string) error {
			_, err := k.client.TagResource(t.Context(), &kms.TagResourceInput{KeyId: &arn, Tags: []types.Tag{{TagKey: aws.String("a"), TagValue: aws.String("b")}}})
			return err
		}, map[types.KeyState]string{"Enabled": ok, "Disabled": ok, "PendingDeletion": invalid, "PendingImport": ok}},
		{"UpdateKeyDescription", func(t *testing.T, arn string) error {
			_, err := k.client.UpdateKeyDescription(t.Context(), &kms.UpdateKeyDescriptionInput{KeyId: &arn, Description: aws.String("d")})
			return err
		}, map[types.KeyState]string{"Enabled": ok, "Disabled": ok, "PendingDeletion": invalid, "PendingImport": ok}},
	} {
		for state, want := range tc.want {
			t.Run(fmt.Sprintf("%s/%s", tc.operation, state), func(t *testing.T) {
				arn := prepare[state](t)
				if got := k.describe(t, arn).KeyState; got != state {
					t.Fatalf("the key is %s", got)
				}
				wantCode(t, tc.call(t, arn), want)
			})
		}
	}
}

func (k kmsSuite) deletion(t *testing.T) {
	arn := k.create(t)
	for _, days := range []int32{6, 31} {
		_, err := k.client.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: &arn, PendingWindowInDays: &days})
		if !k.target.Deviations.KMSRangesUnchecked {
			wantCode(t, err, "ValidationException")
		}
	}
	arn = k.create(t)
	name := k.alias(t, arn)
	out, err := k.client.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: aws.String(id(arn)), PendingWindowInDays: aws.Int32(7)})
	if err != nil {
		t.Fatal(err)
	}
	if sparse := k.target.Deviations.KMSSparseAnswers; !sparse && (aws.ToString(out.KeyId) != arn || out.KeyState != types.KeyStatePendingDeletion || aws.ToInt32(out.PendingWindowInDays) != 7) {
		t.Errorf("scheduled: %+v", out)
	}
	m := k.describe(t, name) // the alias lives until the key is gone
	if m.KeyState != types.KeyStatePendingDeletion || m.Enabled || m.DeletionDate == nil {
		t.Errorf("a key pending deletion is %+v", m)
	} else if left := time.Until(*m.DeletionDate); left < 6*24*time.Hour || left > 8*24*time.Hour {
		t.Errorf("it is deleted in %v", left)
	}
	cancelled, err := k.client.CancelKeyDeletion(t.Context(), &kms.CancelKeyDeletionInput{KeyId: aws.String(id(arn))})
	if err != nil {
		t.Fatal(err)
	}
	if aws.ToString(cancelled.KeyId) != arn && !k.target.Deviations.KMSSparseAnswers {
		t.Errorf("cancelled %q", aws.ToString(cancelled.KeyId))
	}
	m = k.describe(t, arn)
	if m.KeyState != types.KeyStateDisabled || m.DeletionDate != nil {
		t.Errorf("after cancelling the key is %+v", m)
	}
	if _, err := k.client.EnableKey(t.Context(), &kms.EnableKeyInput{KeyId: aws.String(id(arn))}); err != nil {
		t.Error(err)
	}
}

func (k kmsSuite) rotation(t *testing.T) {
	status := func(t *testing.T, arn string) *kms.GetKeyRotationStatusOutput {
		t.Helper()
		out, err := k.client.GetKeyRotationStatus(t.Context(), &kms.GetKeyRotationStatusInput{KeyId: &arn})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	enable := func(arn string, period *int32) error {
		_, err := k.client.EnableKeyRotation(t.Context(), &kms.EnableKeyRotationInput{KeyId: &arn, RotationPeriodInDays: period})
		return err
	}
	arn := k.create(t)
	if out := status(t, arn); out.KeyRotationEnabled {
		t.Error("a new key rotates")
	}
	wantCode(t, enable(arn, aws.Int32(180)), "")
	if out := status(t, arn); k.target.Deviations.KMSForgetsRotationPeriod {
		t.Log("deviation KMSForgetsRotationPeriod: this server has no period")
	} else if !out.KeyRotationEnabled || aws.ToInt32(out.RotationPeriodInDays) != 180 {
		t.Errorf("status %+v", out)
	} else if until := time.Until(aws.ToTime(out.NextRotationDate)); until < 179*24*time.Hour || until > 181*24*time.Hour {
		t.Errorf("next rotation in %v", until)
	}
	k.scheduleDeletion(t, arn)
	if out := status(t, arn); out.KeyRotationEnabled && !k.target.Deviations.KMSRotationWhilePending {
		t.Error("a key pending deletion rotates")
	}
	if _, err := k.client.CancelKeyDeletion(t.Context(), &kms.CancelKeyDeletionInput{KeyId: aws.String(id(arn))}); err != nil {
		t.Fatal(err)
	}
	if out := status(t, arn); !out.KeyRotationEnabled {
		t.Error("cancelling the deletion did not bring rotation back")
	}
	if _, err := k.client.EnableKey(t.Context(), &kms.EnableKeyInput{KeyId: aws.String(id(arn))}); err != nil {
		t.Fatal(err)
	}
	if _, err := k.client.DisableKeyRotation(t.Context(), &kms.DisableKeyRotationInput{KeyId: &arn}); err != nil {
		t.Fatal(err)
	}
	if out := status(t, arn); out.KeyRotationEnabled {
		t.Error("rotation is still on")
	}
	wantCode(t, enable(arn, nil), "")
	if out := status(t, arn); !out.KeyRotationEnabled || aws.ToInt32(out.RotationPeriodInDays) != 365 && !k.target.Deviations.KMSForgetsRotationPeriod {
		t.Errorf("without a period: %+v", out)
	}
	if !k.target.Deviations.KMSRangesUnchecked {
		wantCode(t, enable(arn, aws.Int32(89)), "ValidationException")
		wantCode(t, enable(arn, aws.Int32(2561)), "ValidationException")
	}
	if !k.target.Deviations.KMSRotatesAnyKey {
		wantCode(t, enable(k.create(t, rsaKey), nil), "UnsupportedOperationException")
		wantCode(t, enable(k.create(t, external), nil), "UnsupportedOperationException")
		wantCode(t, enable(k.alias(t, arn), nil), "NotFoundException")
	}
}

func (k kmsSuite) rotationOnDemand(t *testing.T) {
	arn := k.create(t)
	sealed, err := k.client.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &arn, Plaintext: []byte("before")})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := k.client.RotateKeyOnDemand(t.Context(), &kms.RotateKeyOnDemandInput{KeyId: &arn}); err != nil {
			t.Fatal(err)
		}
	}
	opened, err := k.client.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: sealed.CiphertextBlob})
	if err != nil || string(opened.Plaintext) != "before" {
		t.Errorf("after rotations: %v, %v", opened, err)
	}
	if k.target.Deviations.KMSNoRotationList {
		return
	}
	out, err := k.client.ListKeyRotations(t.Context(), &kms.ListKeyRotationsInput{KeyId: &arn})
	if err != nil {
		t.Fatal(err)
	}
	if len(out.Rotations) != 2 {
		t.Fatalf("%d rotations", len(out.Rotations))
	}
	for _, r := range out.Rotations {
		if r.RotationType != types.RotationTypeOnDemand || r.RotationDate == nil {
			t.Errorf("rotation %+v", r)
		}
	}
	if k.target.Deviations.KMSNoKeyMaterialIDs {
		return
	}
	all, err := k.client.ListKeyRotations(t.Context(), &kms.ListKeyRotationsInput{KeyId: &arn, IncludeKeyMaterial: types.IncludeKeyMaterialAllKeyMaterial})
	if err != nil {
		t.Fatal(err)
	}
	current := aws.ToString(k.describe(t, arn).CurrentKeyMaterialId)
	states := map[types.KeyMaterialState]int{}
	for _, r := range all.Rotations {
		states[r.KeyMaterialState]++
		if r.KeyMaterialState == types.KeyMaterialStateCurrent && aws.ToString(r.KeyMaterialId) != current {
			t.Errorf("current material %q, the key has %q", aws.ToString(r.KeyMaterialId), current)
		}
	}
	if diff := cmp.Diff(map[types.KeyMaterialState]int{types.KeyMaterialStateCurrent: 1, types.KeyMaterialStateNonCurrent: 2}, states); diff != "" {
		t.Errorf("materials (-want +got):\n%s", diff)
	}
}

func (k kmsSuite) policy(t *testing.T) {
	root := "arn:aws:iam::" + k.target.Account + ":root"
	allow := func(principal, action string) string {
		return `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"` + principal + `"},"Action":"` + action + `","Resource":"*"}]}`
	}
	arn := k.create(t)
	put := func(change func(*kms.PutKeyPolicyInput)) error {
		in := &kms.PutKeyPolicyInput{KeyId: &arn, PolicyName: aws.String("default"), Policy: aws.String(allow(root, "kms:*"))}
		change(in)
		// The SDK takes LimitExceededException for throttling and would try again.
		_, err := k.client.PutKeyPolicy(t.Context(), in, func(o *kms.Options) { o.RetryMaxAttempts = 1 })
		return err
	}
	get := func(name *string) string {
		t.Helper()
		out, err := k.client.GetKeyPolicy(t.Context(), &kms.GetKeyPolicyInput{KeyId: &arn, PolicyName: name})
		if err != nil {
			t.Fatal(err)
		}
		return aws.ToString(out.Policy)
	}
	if !strings.Contains(get(aws.String("default")), root) {
		t.Errorf("the default policy does not name the account: %s", get(aws.String("default")))
	}
	wantCode(t, put(func(*kms.PutKeyPolicyInput) {}), "")
	if k.target.Deviations.KMSPolicyNameRequired {
		t.Log("deviation KMSPolicyNameRequired: a call without PolicyName is not tried")
	} else {
		wantCode(t, put(func(in *kms.PutKeyPolicyInput) { in.PolicyName = nil }), "")
		_ = get(nil)
	}
	names, err := k.client.ListKeyPolicies(t.Context(), &kms.ListKeyPoliciesInput{KeyId: &arn})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"default"}, names.PolicyNames); diff != "" {
		t.Errorf("policies (-want +got):\n%s", diff)
	}
	if k.target.Deviations.KMSPolicyUnchecked {
		t.Skip("deviation KMSPolicyUnchecked: this server takes any document")
	}
	const malformed = "MalformedPolicyDocumentException"
	wantCode(t, put(func(in *kms.PutKeyPolicyInput) { in.Policy = aws.String("no JSON") }), malformed)
	wantCode(t, put(func(in *kms.PutKeyPolicyInput) { in.Policy = aws.String(`{"Version":"2012-10-17"}`) }), malformed)
	wantCode(t, put(func(in *kms.PutKeyPolicyInput) { in.Policy = aws.String(allow("someone", "kms:*")) }), malformed)
	lockout := allow(root, "kms:Describe*")
	wantCode(t, put(func(in *kms.PutKeyPolicyInput) { in.Policy = &lockout }), malformed)
	large := allow(root, "kms:*") + strings.Repeat(" ", 32<<10)
	wantCode(t, put(func(in *kms.PutKeyPolicyInput) { in.Policy = &large }), "LimitExceededException")
	_, err = k.client.CreateKey(t.Context(), &kms.CreateKeyInput{Policy: &lockout})
	wantCode(t, err, malformed)
	given := k.create(t, func(in *kms.CreateKeyInput) {
		in.Policy, in.BypassPolicyLockoutSafetyCheck = aws.String(allow(root, "kms:Get*")), true
	})
	if out, err := k.client.GetKeyPolicy(t.Context(), &kms.GetKeyPolicyInput{KeyId: &given}); err != nil || aws.ToString(out.Policy) != allow(root, "kms:Get*") {
		t.Errorf("the policy that the key was created with: %+v, %v", out, err)
	}
	if strings.Contains(get(aws.String("default")), "Describe*") {
		t.Error("a refused policy was stored")
	}
	wantCode(t, put(func(in *kms.PutKeyPolicyInput) { in.Policy, in.BypassPolicyLockoutSafetyCheck = &lockout, true }), "")
	wantCode(t, put(func(*kms.PutKeyPolicyInput) {}), "AccessDeniedException") // now it is locked out
}

func (k kmsSuite) aliases(t *testing.T) {
	first, second := k.create(t), k.create(t)
	name := k.alias(t, id(first))
	list := func(ref *string) map[string]types.AliasListEntry {
		t.Helper()
		found := map[string]types.AliasListEntry{}
		pages := kms.NewListAliasesPaginator(k.client, &kms.ListAliasesInput{KeyId: ref, Limit: aws.Int32(100)})
		for pages.HasMorePages() {
			page, err := pages.NextPage(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range page.Aliases {
				found[aws.ToString(a.AliasName)] = a
			}
		}
		return found
	}
	update := func(alias, target string) error {
		_, err := k.client.UpdateAlias(t.Context(), &kms.UpdateAliasInput{AliasName: &alias, TargetKeyId: &target})
		return err
	}
	before := list(nil)[name]
	aliasARN := strings.TrimSuffix(first, "key/"+id(first)) + name
	if aws.ToString(before.TargetKeyId) != id(first) || aws.ToString(before.AliasArn) != aliasARN {
		t.Errorf("listed %+v", before)
	}
	for _, ref := range []string{name, aliasARN} {
		if got := aws.ToString(k.describe(t, ref).Arn); got != first {
			t.Errorf("%s is %q", ref, got)
		}
	}
	wantCode(t, update(name, second), "")
	if got := list(&first); len(got) != 0 {
		t.Errorf("the first key still has %v", got)
	}
	after, ok := list(&second)[name]
	if !ok || aws.ToString(k.describe(t, name).Arn) != second {
		t.Error("the alias did not move")
	}
	if !aws.ToTime(after.CreationDate).Equal(aws.ToTime(before.CreationDate)) || aws.ToTime(after.LastUpdatedDate).Before(aws.ToTime(before.LastUpdatedDate)) {
		t.Errorf("dates before %v %v, after %v %v", before.CreationDate, before.LastUpdatedDate, after.CreationDate, after.LastUpdatedDate)
	}
	_, err := k.client.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: &name, TargetKeyId: &first})
	wantCode(t, err, "AlreadyExistsException")
	for _, bad := range []string{"no-prefix", "alias/with space"} {
		_, err := k.client.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: &bad, TargetKeyId: &first})
		wantCode(t, err, "ValidationException")
	}
	wantCode(t, update("alias/conformance-none", first), "NotFoundException")
	wantCode(t, update(name, "00000000-1111-2222-3333-444444444444"), "NotFoundException")
	if !k.target.Deviations.KMSAliasUnchecked {
		_, err = k.client.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: aws.String("alias/aws/conformance"), TargetKeyId: &first})
		wantCode(t, err, "InvalidAliasNameException")
		wantCode(t, update(name, k.create(t, rsaKey)), "ValidationException")
		wantCode(t, update(name, k.alias(t, first)), "ValidationException")
		gone := k.create(t)
		k.scheduleDeletion(t, gone)
		wantCode(t, update(name, gone), "KMSInvalidStateException")
	}
	k.scheduleDeletion(t, second)
	wantCode(t, update(name, first), "") // away from a key pending deletion
	if _, err := k.client.DeleteAlias(t.Context(), &kms.DeleteAliasInput{AliasName: &name}); err != nil {
		t.Error(err)
	}
	_, err = k.client.DeleteAlias(t.Context(), &kms.DeleteAliasInput{AliasName: &name})
	wantCode(t, err, "NotFoundException")
}

func (k kmsSuite) encryption(t *testing.T) {
	arn, other := k.create(t), k.create(t)
	name := k.alias(t, arn)
	about := map[string]string{"a": "1", "b": "2"}
	for _, ref := range []string{arn, id(arn), name} {
		sealed, err := k.client.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &ref, Plaintext: []byte("data"), EncryptionContext: about})
		if err != nil {
			t.Fatal(err)
		}
		if aws.ToString(sealed.KeyId) != arn {
			t.Errorf("encrypted under %q by %q", aws.ToString(sealed.KeyId), ref)
		}
		opened, err := k.client.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: sealed.CiphertextBlob, EncryptionContext: about})
		if err != nil {
			t.Fatal(err)
		}
		if string(opened.Plaintext) != "data" || aws.ToString(opened.KeyId) != arn {
			t.Errorf("decrypted %q under %q", opened.Plaintext, aws.ToString(opened.KeyId))
		}
		_, err = k.client.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: sealed.CiphertextBlob})
		wantCode(t, err, "InvalidCiphertextException")
		_, err = k.client.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: sealed.CiphertextBlob, EncryptionContext: map[string]string{"a": "12", "b": ""}})
		wantCode(t, err, "InvalidCiphertextException")
		if !k.target.Deviations.KMSNoIncorrectKey {
			_, err = k.client.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: sealed.CiphertextBlob, EncryptionContext: about, KeyId: &other})
			wantCode(t, err, "IncorrectKeyException")
		}
		broken := bytes.Clone(sealed.CiphertextBlob)
		broken[len(broken)-1] ^= 1
		_, err = k.client.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: broken, EncryptionContext: about})
		wantCode(t, err, "InvalidCiphertextException")
	}
	_, err := k.client.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &arn, Plaintext: make([]byte, 4097)})
	wantCode(t, err, "ValidationException")

	data, err := k.client.GenerateDataKey(t.Context(), &kms.GenerateDataKeyInput{KeyId: &name, KeySpec: types.DataKeySpecAes256, EncryptionContext: about})
	if err != nil {
		t.Fatal(err)
	}
	opened, err := k.client.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: data.CiphertextBlob, EncryptionContext: about})
	if err != nil {
		t.Fatal(err)
	}
	if len(data.Plaintext) != 32 || !bytes.Equal(opened.Plaintext, data.Plaintext) || aws.ToString(data.KeyId) != arn {
		t.Error("the data key does not come back")
	}
	hidden, err := k.client.GenerateDataKeyWithoutPlaintext(t.Context(), &kms.GenerateDataKeyWithoutPlaintextInput{KeyId: &arn, KeySpec: types.DataKeySpecAes128})
	if err != nil {
		t.Fatal(err)
	}
	if opened, err = k.client.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: hidden.CiphertextBlob}); err != nil || len(opened.Plaintext) != 16 {
		t.Errorf("a hidden data key: %v, %v", opened, err)
	}
	_, err = k.client.GenerateDataKey(t.Context(), &kms.GenerateDataKeyInput{KeyId: &arn})
	wantCode(t, err, "ValidationException")
	if !k.target.Deviations.KMSKeyUsageUnchecked {
		hmac := k.create(t, func(in *kms.CreateKeyInput) {
			in.KeySpec, in.KeyUsage = types.KeySpecHmac256, types.KeyUsageTypeGenerateVerifyMac
		})
		_, err = k.client.GenerateDataKey(t.Context(), &kms.GenerateDataKeyInput{KeyId: &hmac, KeySpec: types.DataKeySpecAes256})
		wantCode(t, err, "InvalidKeyUsageException")
	}
	if !k.target.Deviations.KMSDryRunIgnored {
		_, err = k.client.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &arn, Plaintext: []byte("x"), DryRun: aws.Bool(true)})
		wantCode(t, err, "DryRunOperationException")
	}
	random, err := k.client.GenerateRandom(t.Context(), &kms.GenerateRandomInput{NumberOfBytes: aws.Int32(24)})
	if err != nil || len(random.Plaintext) != 24 {
		t.Errorf("random bytes: %v, %v", random, err)
	}
}

func (k kmsSuite) reEncrypt(t *testing.T) {
	from, to := k.create(t), k.create(t)
	old, now := map[string]string{"of": "old"}, map[string]string{"of": "new"}
	sealed, err := k.client.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &from, Plaintext: []byte("data"), EncryptionContext: old})
	if err != nil {
		t.Fatal(err)
	}
	in := kms.ReEncryptInput{
		CiphertextBlob: sealed.CiphertextBlob, SourceEncryptionContext: old,
		DestinationKeyId: &to, DestinationEncryptionContext: now,
	}
	if k.target.Deviations.KMSReEncryptNeedsSource {
		in.SourceKeyId = &from
	}
	moved, err := k.client.ReEncrypt(t.Context(), &in)
	if err != nil {
		t.Fatal(err)
	}
	if aws.ToString(moved.KeyId) != to || aws.ToString(moved.SourceKeyId) != from {
		t.Errorf("moved from %q to %q", aws.ToString(moved.SourceKeyId), aws.ToString(moved.KeyId))
	}
	k.disable(t, from) // the data no longer needs the old key
	opened, err := k.client.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: moved.CiphertextBlob, EncryptionContext: now})
	if err != nil || string(opened.Plaintext) != "data" {
		t.Errorf("after moving: %v, %v", opened, err)
	}
	if k.target.Deviations.KMSUnusableKeysWork {
		return
	}
	_, err = k.client.ReEncrypt(t.Context(), &in)
	wantCode(t, err, "DisabledException")
	if k.target.Deviations.KMSDryRunIgnored {
		return
	}

	from = k.create(t)
	try := kms.ReEncryptInput{
		SourceKeyId: &from, DestinationKeyId: &to, DryRun: aws.Bool(true),
		DryRunModifiers: []types.DryRunModifierType{types.DryRunModifierTypeIgnoreCiphertext},
	}
	_, err = k.client.ReEncrypt(t.Context(), &try)
	wantCode(t, err, "DryRunOperationException")
}

func (k kmsSuite) grants(t *testing.T) {
	arn := k.create(t)
	grantee := "arn:aws:iam::" + k.target.Account + ":root"
	in := &kms.CreateGrantInput{
		KeyId: &arn, GranteePrincipal: &grantee, RetiringPrincipal: &grantee, Name: aws.String("one"),
		Operations:  []types.GrantOperation{types.GrantOperationDecrypt, types.GrantOperationEncrypt},
		Constraints: &types.GrantConstraints{EncryptionContextSubset: map[string]string{"a": "b"}},
	}
	first, err := k.client.CreateGrant(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	if !k.target.Deviations.KMSGrantNamesIgnored {
		if again, err := k.client.CreateGrant(t.Context(), in); err != nil || aws.ToString(again.GrantId) != aws.ToString(first.GrantId) {
			t.Errorf("the same grant again: %v, %v", again, err)
		}
	}
	in.Name, in.Constraints = aws.String("two"), nil
	second, err := k.client.CreateGrant(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	list := func() map[string]types.GrantListEntry {
		t.Helper()
		out, err := k.client.ListGrants(t.Context(), &kms.ListGrantsInput{KeyId: &arn})
		if err != nil {
			t.Fatal(err)
		}
		found := map[string]types.GrantListEntry{}
		for _, g := range out.Grants {
			found[aws.ToString(g.GrantId)] = g
		}
		return found
	}
	got := list()
	g := got[aws.ToString(first.GrantId)]
	if len(got) != 2 || aws.ToString(g.GranteePrincipal) != grantee || len(g.Operations) != 2 || aws.ToString(g.Name) != "one" || g.Constraints == nil {
		t.Errorf("listed %+v", got)
	} else if diff := cmp.Diff(map[string]string{"a": "b"}, g.Constraints.EncryptionContextSubset); diff != "" || g.Constraints.EncryptionContextEquals != nil {
		t.Errorf("constraints (-want +got):\n%s", diff)
	}
	if g := got[aws.ToString(second.GrantId)]; g.Constraints != nil && len(g.Constraints.EncryptionContextSubset)+len(g.Constraints.EncryptionContextEquals) > 0 {
		t.Errorf("a grant without constraints has %+v", g.Constraints)
	}
	if _, err := k.client.RevokeGrant(t.Context(), &kms.RevokeGrantInput{KeyId: &arn, GrantId: first.GrantId}); err != nil {
		t.Error(err)
	}
	_, err = k.client.RevokeGrant(t.Context(), &kms.RevokeGrantInput{KeyId: &arn, GrantId: first.GrantId})
	if !k.target.Deviations.KMSRevokedGrantCode {
		wantCode(t, err, "NotFoundException")
	}
	retirable, err := k.client.ListRetirableGrants(t.Context(), &kms.ListRetirableGrantsInput{RetiringPrincipal: &grantee})
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, g := range retirable.Grants {
		found = found || aws.ToString(g.GrantId) == aws.ToString(second.GrantId)
	}
	if !found {
		t.Errorf("retirable: %+v", retirable.Grants)
	}
	caller, err := sts.NewFromConfig(k.target.Config).GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
	if err != nil {
		t.Fatal(err)
	}
	in.Name, in.RetiringPrincipal = aws.String("three"), caller.Arn
	third, err := k.client.CreateGrant(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.client.RetireGrant(t.Context(), &kms.RetireGrantInput{KeyId: &arn, GrantId: third.GrantId}); err != nil {
		t.Error(err)
	}
	if got := list(); len(got) != 1 {
		t.Errorf("after two of three grants ended: %+v", got)
	}
}

func (k kmsSuite) tags(t *testing.T) {
	arn := k.create(t, func(in *kms.CreateKeyInput) {
		in.Tags = []types.Tag{{TagKey: aws.String("team"), TagValue: aws.String("a")}}
	})
	if _, err := k.client.TagResource(t.Context(), &kms.TagResourceInput{KeyId: &arn, Tags: []types.Tag{
		{TagKey: aws.String("team"), TagValue: aws.String("b")}, {TagKey: aws.String("cost"), TagValue: aws.String("")},
	}}); err != nil {
		t.Fatal(err)
	}
	if _, err := k.client.UntagResource(t.Context(), &kms.UntagResourceInput{KeyId: &arn, TagKeys: []string{"cost"}}); err != nil {
		t.Fatal(err)
	}
	out, err := k.client.ListResourceTags(t.Context(), &kms.ListResourceTagsInput{KeyId: &arn})
	if err != nil {
		t.Fatal(err)
	}
	if len(out.Tags) != 1 || aws.ToString(out.Tags[0].TagKey) != "team" || aws.ToString(out.Tags[0].TagValue) != "b" {
		t.Errorf("tags %+v", out.Tags)
	}
	if k.target.Deviations.KMSTagPagingIgnored {
		t.Skip("deviation KMSTagPagingIgnored: this server answers in one page")
	}
	want := map[string]string{"team": "b"}
	for i := range 4 {
		want[fmt.Sprint("tag-", i)] = fmt.Sprint(i)
		if _, err := k.client.TagResource(t.Context(), &kms.TagResourceInput{KeyId: &arn, Tags: []types.Tag{{TagKey: aws.String(fmt.Sprint("tag-", i)), TagValue: aws.String(fmt.Sprint(i))}}}); err != nil {
			t.Fatal(err)
		}
	}
	got, pages := map[string]string{}, 0
	for p := kms.NewListResourceTagsPaginator(k.client, &kms.ListResourceTagsInput{KeyId: &arn, Limit: aws.Int32(2)}); p.HasMorePages(); pages++ {
		page, err := p.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, tag := range page.Tags {
			got[aws.ToString(tag.TagKey)] = aws.ToString(tag.TagValue)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" || pages != 3 {
		t.Errorf("%d pages of tags (-want +got):\n%s", pages, diff)
	}
	_, err = k.client.ListResourceTags(t.Context(), &kms.ListResourceTagsInput{KeyId: &arn, Limit: aws.Int32(51)})
	if !k.target.Deviations.KMSRangesUnchecked {
		wantCode(t, err, "ValidationException")
	}
}

func (k kmsSuite) paging(t *testing.T) {
	want := map[string]bool{}
	arn := k.create(t)
	for range 5 {
		want[k.alias(t, arn)] = true
	}
	got := map[string]bool{}
	in := &kms.ListAliasesInput{KeyId: &arn, Limit: aws.Int32(2)}
	for pages := 1; ; pages++ {
		out, err := k.client.ListAliases(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range out.Aliases {
			got[aws.ToString(a.AliasName)] = true
		}
		if !out.Truncated {
			if pages != 3 && !k.target.Deviations.KMSAliasPagingIgnored {
				t.Errorf("%d pages", pages)
			}
			break
		}
		in.Marker = out.NextMarker
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("aliases (-want +got):\n%s", diff)
	}
	seen := false
	keys := kms.NewListKeysPaginator(k.client, &kms.ListKeysInput{Limit: aws.Int32(50)})
	for keys.HasMorePages() {
		page, err := keys.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range page.Keys {
			seen = seen || aws.ToString(entry.KeyArn) == arn
		}
	}
	if !seen {
		t.Error("ListKeys misses the key")
	}
	if !k.target.Deviations.KMSRangesUnchecked {
		_, err := k.client.ListAliases(t.Context(), &kms.ListAliasesInput{Limit: aws.Int32(101)})
		wantCode(t, err, "ValidationException")
		_, err = k.client.ListAliases(t.Context(), &kms.ListAliasesInput{Marker: aws.String("!")})
		wantCode(t, err, "InvalidMarkerException")
	}
}

func (k kmsSuite) importedMaterial(t *testing.T) {
	if k.target.Deviations.KMSNoImport {
		t.Skip("deviation KMSNoImport: this server does not import key material")
	}
	arn := k.create(t, external)
	_, err := k.client.GetParametersForImport(t.Context(), importParameters(k.create(t)))
	wantCode(t, err, "UnsupportedOperationException")
	first, second := make([]byte, 32), make([]byte, 32)
	_, _ = rand.Read(first) // crypto/rand.Read never fails
	_, _ = rand.Read(second)

	importMaterial := func(material []byte, change func(*kms.ImportKeyMaterialInput)) (*kms.ImportKeyMaterialOutput, error) {
		t.Helper()
		parameters, err := k.client.GetParametersForImport(t.Context(), importParameters(arn))
		if err != nil {
			t.Fatal(err)
		}
		public, err := x509.ParsePKIXPublicKey(parameters.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		wrapped, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, public.(*rsa.PublicKey), material, nil)
		if err != nil {
			t.Fatal(err)
		}
		in := &kms.ImportKeyMaterialInput{
			KeyId: &arn, ImportToken: parameters.ImportToken, EncryptedKeyMaterial: wrapped,
			ExpirationModel: types.ExpirationModelTypeKeyMaterialDoesNotExpire,
		}
		change(in)
		return k.client.ImportKeyMaterial(t.Context(), in)
	}
	asIs := func(*kms.ImportKeyMaterialInput) {}

	_, err = importMaterial(first, func(in *kms.ImportKeyMaterialInput) { in.ImportToken = []byte("another") })
	wantCode(t, err, "InvalidImportTokenException")
	_, err = importMaterial(first[:16], asIs)
	wantCode(t, err, "IncorrectKeyMaterialException")
	_, err = importMaterial(first, func(in *kms.ImportKeyMaterialInput) {
		in.ExpirationModel = types.ExpirationModelTypeKeyMaterialExpires
	})
	wantCode(t, err, "ValidationException")
	imported, err := importMaterial(first, asIs)
	if err != nil {
		t.Fatal(err)
	}
	if m := k.describe(t, arn); m.KeyState != types.KeyStateEnabled || m.ExpirationModel != types.ExpirationModelTypeKeyMaterialDoesNotExpire {
		t.Errorf("after the import the key is %+v", m)
	}
	sealed, err := k.client.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &arn, Plaintext: []byte("data")})
	if err != nil {
		t.Fatal(err)
	}
	_, err = importMaterial(second, asIs)
	wantCode(t, err, "IncorrectKeyMaterialException")

	if _, err := k.client.DeleteImportedKeyMaterial(t.Context(), &kms.DeleteImportedKeyMaterialInput{KeyId: &arn}); err != nil {
		t.Fatal(err)
	}
	if m := k.describe(t, arn); m.KeyState != types.KeyStatePendingImport {
		t.Errorf("without its material the key is %s", m.KeyState)
	}
	_, err = k.client.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: sealed.CiphertextBlob})
	wantCode(t, err, "KMSInvalidStateException")
	again, err := importMaterial(first, func(in *kms.ImportKeyMaterialInput) {
		in.ExpirationModel, in.ValidTo = types.ExpirationModelTypeKeyMaterialExpires, aws.Time(time.Now().Add(time.Hour))
	})
	if err != nil {
		t.Fatal(err)
	}
	if aws.ToString(again.KeyMaterialId) != aws.ToString(imported.KeyMaterialId) {
		t.Error("the same material has another id")
	}
	if m := k.describe(t, arn); m.ValidTo == nil || m.KeyState != types.KeyStateEnabled {
		t.Errorf("after importing again the key is %+v", m)
	}

	_, err = k.client.RotateKeyOnDemand(t.Context(), &kms.RotateKeyOnDemandInput{KeyId: &arn})
	wantCode(t, err, "KMSInvalidStateException") // no material is waiting
	asNew := func(in *kms.ImportKeyMaterialInput) { in.ImportType = types.ImportTypeNewKeyMaterial }
	materials := func() map[string]types.KeyMaterialState {
		t.Helper()
		states := map[string]types.KeyMaterialState{}
		if k.target.Deviations.KMSNoRotationList {
			return states
		}
		out, err := k.client.ListKeyRotations(t.Context(), &kms.ListKeyRotationsInput{KeyId: &arn, IncludeKeyMaterial: types.IncludeKeyMaterialAllKeyMaterial})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range out.Rotations {
			states[aws.ToString(r.KeyMaterialId)] = r.KeyMaterialState
			if r.ImportState != types.ImportStateImported || (r.RotationDate == nil) != (r.RotationType == "") || (r.RotationDate == nil) == (r.KeyMaterialState == types.KeyMaterialStateCurrent && len(states) > 1) {
				t.Errorf("material %+v", r)
			}
		}
		return states
	}
	wantMaterials := func(want map[string]types.KeyMaterialState) {
		t.Helper()
		if diff := cmp.Diff(want, materials()); diff != "" && !k.target.Deviations.KMSNoRotationList {
			t.Errorf("materials (-want +got):\n%s", diff)
		}
	}
	firstID := aws.ToString(imported.KeyMaterialId)
	wantMaterials(map[string]types.KeyMaterialState{firstID: types.KeyMaterialStateCurrent})
	_, err = importMaterial(first, asNew)
	wantCode(t, err, "IncorrectKeyMaterialException")
	waiting, err := importMaterial(second, asNew)
	if err != nil {
		t.Fatal(err)
	}
	secondID := aws.ToString(waiting.KeyMaterialId)
	wantMaterials(map[string]types.KeyMaterialState{firstID: types.KeyMaterialStateCurrent, secondID: types.KeyMaterialStatePendingRotation})
	if got := aws.ToString(k.describe(t, arn).CurrentKeyMaterialId); got != firstID {
		t.Errorf("before the rotation the current material is %q, want %q", got, firstID)
	}
	if _, err := k.client.RotateKeyOnDemand(t.Context(), &kms.RotateKeyOnDemandInput{KeyId: &arn}); err != nil {
		t.Fatal(err)
	}
	wantMaterials(map[string]types.KeyMaterialState{firstID: types.KeyMaterialStateNonCurrent, secondID: types.KeyMaterialStateCurrent})
	if got := aws.ToString(k.describe(t, arn).CurrentKeyMaterialId); got != secondID {
		t.Errorf("after the rotation the current material is %q, want %q", got, secondID)
	}
	if opened, err := k.client.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: sealed.CiphertextBlob}); err != nil || string(opened.Plaintext) != "data" {
		t.Errorf("after the rotation: %v, %v", opened, err)
	}
}

func importParameters(arn string) *kms.GetParametersForImportInput {
	return &kms.GetParametersForImportInput{
		KeyId: &arn, WrappingAlgorithm: types.AlgorithmSpecRsaesOaepSha256, WrappingKeySpec: types.WrappingKeySpecRsa2048,
	}
}

func (k kmsSuite) multiRegion(t *testing.T) {
	arn := k.create(t, multiRegion)
	if !strings.HasPrefix(id(arn), "mrk-") {
		t.Errorf("multi-Region key %q", arn)
	}
	if c := k.describe(t, arn).MultiRegionConfiguration; c == nil || c.MultiRegionKeyType != types.MultiRegionKeyTypePrimary || aws.ToString(c.PrimaryKey.Arn) != arn {
		t.Errorf("configuration %+v", c)
	}
	if k.target.Deviations.KMSNoReplicas {
		t.Skip("deviation KMSNoReplicas: this server does not keep related keys together")
	}
	_, err := k.client.ReplicateKey(t.Context(), &kms.ReplicateKeyInput{KeyId: aws.String(k.create(t)), ReplicaRegion: aws.String("eu-west-1")})
	wantCode(t, err, "UnsupportedOperationException")
	out, err := k.client.ReplicateKey(t.Context(), &kms.ReplicateKeyInput{KeyId: &arn, ReplicaRegion: aws.String("eu-west-1")})
	if err != nil {
		t.Fatal(err)
	}
	if r := out.ReplicaKeyMetadata; aws.ToString(r.KeyId) != id(arn) || r.MultiRegionConfiguration.MultiRegionKeyType != types.MultiRegionKeyTypeReplica {
		t.Errorf("replica %+v", r)
	}
	_, err = k.client.ReplicateKey(t.Context(), &kms.ReplicateKeyInput{KeyId: &arn, ReplicaRegion: aws.String("eu-west-1")})
	wantCode(t, err, "AlreadyExistsException")
	scheduled, err := k.client.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: &arn})
	if err != nil {
		t.Fatal(err)
	}
	if scheduled.KeyState != types.KeyStatePendingReplicaDeletion || scheduled.DeletionDate != nil {
		t.Errorf("a primary key with a replica: %+v", scheduled)
	}
	_, err = k.client.CancelKeyDeletion(t.Context(), &kms.CancelKeyDeletionInput{KeyId: &arn})
	wantCode(t, err, "")
	_, err = k.client.EnableKey(t.Context(), &kms.EnableKeyInput{KeyId: &arn})
	wantCode(t, err, "")
	if k.target.Deviations.KMSNoPrimaryUpdate {
		return
	}
	_, err = k.client.UpdatePrimaryRegion(t.Context(), &kms.UpdatePrimaryRegionInput{KeyId: &arn, PrimaryRegion: aws.String("ap-southeast-2")})
	wantCode(t, err, "NotFoundException")
	_, err = k.client.UpdatePrimaryRegion(t.Context(), &kms.UpdatePrimaryRegionInput{KeyId: &arn, PrimaryRegion: aws.String("eu-west-1")})
	wantCode(t, err, "")
	_, err = k.client.EnableKeyRotation(t.Context(), &kms.EnableKeyRotationInput{KeyId: &arn})
	wantCode(t, err, "UnsupportedOperationException") // a replica now
}

func (k kmsSuite) usage(t *testing.T) {
	if k.target.Deviations.KMSNoLastUsage {
		t.Skip("deviation KMSNoLastUsage: this server does not know GetKeyLastUsage")
	}
	arn := k.create(t)
	out, err := k.client.GetKeyLastUsage(t.Context(), &kms.GetKeyLastUsageInput{KeyId: &arn})
	if err != nil {
		t.Fatal(err)
	}
	if u := out.KeyLastUsage; u != nil && u.Timestamp != nil { // an empty object
		t.Errorf("an unused key was used: %+v", u)
	}
	if out.KeyCreationDate == nil || !aws.ToTime(out.TrackingStartDate).Equal(aws.ToTime(out.KeyCreationDate)) { // created long after KMS began to record
		t.Errorf("created %v, recorded from %v", out.KeyCreationDate, out.TrackingStartDate)
	}
	if _, err := k.client.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &arn, Plaintext: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	if out, err = k.client.GetKeyLastUsage(t.Context(), &kms.GetKeyLastUsageInput{KeyId: &arn}); err != nil {
		t.Fatal(err)
	}
	// AWS may take up to an hour to show a use.
	if u := out.KeyLastUsage; u != nil && u.Timestamp != nil && u.Operation != types.KeyLastUsageTrackingOperationEncrypt {
		t.Errorf("last used for %s", u.Operation)
	}
}
