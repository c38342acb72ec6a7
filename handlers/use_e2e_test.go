package handlers_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
)

func TestFailedUse(t *testing.T) {
	c := enforceAll()
	c.FailedUse, c.Deletion = true, reaction.Off
	inWorld(t, c, func(w *world) {
		key := w.knownKey("alias/orders")
		use := func() {
			t.Helper()
			if _, err := w.kms.Encrypt(w.ctx, &kms.EncryptInput{KeyId: &key, Plaintext: []byte("order 7"), EncryptionContext: map[string]string{"aws:s3:arn": "arn:aws:s3:::orders-data/7\n.csv"}}); err == nil {
				t.Fatal("a key that cannot be used encrypts")
			}
			if _, err := w.kms.GenerateDataKey(w.ctx, &kms.GenerateDataKeyInput{KeyId: &key, KeySpec: "AES_256"}); err == nil {
				t.Fatal("a key that cannot be used makes data keys")
			}
			w.react()
		}
		must(w.kms.Encrypt(w.ctx, &kms.EncryptInput{KeyId: &key, Plaintext: []byte("order 7"), EncryptionContext: map[string]string{"aws:dynamodb:tableName": "books"}}))
		w.react()
		w.none()

		w.scheduleDeletion(key)
		use()
		use()
		a := w.one()
		if a.Kind != alert.KindUse || a.Severity != finding.High || a.Key.ARN != key || !slices.Contains(a.Key.Aliases, "alias/orders") || a.EventName != "Encrypt" || a.Actor == nil {
			t.Errorf("alert:\n%s", a.Text())
		}
		for name, want := range map[string]string{
			"needed resource":                 "S3 object orders-data/7\n.csv",
			"resources that recent uses name": "1 S3 object: orders-data/7\n.csv, Encrypt at ",
		} {
			if got := facts(a, name); !strings.HasPrefix(got, want) {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
		if text := a.Text(); !strings.Contains(text, `orders-data/7\n.csv, by the encryption context`) || !strings.Contains(text, "refused with KMSInvalidStateException") ||
			!strings.Contains(text, "1 DynamoDB table: books, Encrypt at ") {
			t.Errorf("alert:\n%s", text)
		}
		if !slices.Contains(a.Next, "aws kms cancel-key-deletion --key-id "+key[len(key)-36:]+" --region "+region) {
			t.Errorf("the alert does not say how to keep the key:\n%s", a.Text())
		}
		if got := w.state(key); got != "PendingDeletion" {
			t.Errorf("state %s: somebody changed it", got)
		}
	})
}

// TestFailedUseOfTwoKeys: a call that uses two keys is about the one that cannot be
// used, wherever the record names it.
func TestFailedUseOfTwoKeys(t *testing.T) {
	c := enforceAll()
	c.FailedUse, c.Deletion = true, reaction.Off
	for _, disabled := range []int{0, 1} {
		inWorld(t, c, func(w *world) {
			keys := []string{w.knownKey("alias/orders"), w.knownKey("alias/archive")}
			must(w.kms.DisableKey(w.ctx, &kms.DisableKeyInput{KeyId: &keys[disabled]}))
			w.react()
			w.told.take()
			w.aws.Record([]byte(`{"eventSource":"kms.amazonaws.com","eventName":"ReEncrypt","errorCode":"DisabledException","readOnly":true,` +
				`"resources":[{"ARN":"` + keys[0] + `"},{"ARN":"` + keys[1] + `"}]}`))
			w.react()
			if a := w.one(); a.Kind != alert.KindUse || a.Key.ARN != keys[disabled] {
				t.Errorf("alert:\n%s", a.Text())
			}
		})
	}
}

func TestFailedUseIsNotAskedFor(t *testing.T) {
	c := enforceAll()
	c.Deletion = reaction.Off
	inWorld(t, c, func(w *world) {
		key := w.knownKey("alias/orders")
		must(w.kms.DisableKey(w.ctx, &kms.DisableKeyInput{KeyId: &key}))
		w.aws.Record([]byte(`{"eventSource":"kms.amazonaws.com","eventName":"Decrypt","errorCode":"DisabledException","resources":[{"ARN":"` + key + `"}]}`))
		w.react()
		w.none()
	})
}
