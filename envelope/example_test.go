package envelope_test

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/cmkeeper/cmkeeper/envelope"
	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func Example() {
	ctx := context.Background()
	server := localaws.New(localaws.Options{Account: "111122223333", Region: "eu-west-1"})
	defer server.Close()
	client := kms.NewFromConfig(inprocess.Config(server, "eu-west-1", "app"))
	oldKey, newKey := must(client.CreateKey(ctx, &kms.CreateKeyInput{})), must(client.CreateKey(ctx, &kms.CreateKeyInput{}))
	must(client.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: aws.String("alias/app"), TargetKeyId: oldKey.KeyMetadata.KeyId}))

	sealer := must(envelope.New(client, "arn:aws:kms:eu-west-1:111122223333:alias/app", envelope.Options{
		Rules: must(envelope.ParseRules([]byte(`{"required": ["tenant", "purpose"], "values": {"purpose": ["invoices", "backups"]}}`))),
		Cache: envelope.Cache{MaxAge: 5 * time.Minute, MaxMessages: 10_000, MaxBytes: 1 << 30, MaxEntries: 100},
	}))
	defer sealer.Close()
	invoices := map[string]string{"tenant": "a", "purpose": "invoices"}
	sealed := must(sealer.Seal(ctx, []byte("an invoice"), invoices))

	// Somebody moves the message to another KMS key, who need not be allowed to decrypt it.
	header := must(envelope.ReadHeader(bytes.NewReader(sealed)))
	out := must(client.ReEncrypt(ctx, &kms.ReEncryptInput{
		CiphertextBlob: header.WrappedKey, SourceKeyId: aws.String(header.KeyARN), SourceEncryptionContext: header.Context,
		DestinationKeyId: newKey.KeyMetadata.KeyId, DestinationEncryptionContext: header.Context,
	}))
	moved := append(must(header.Rewrapped(*out.KeyId, out.CiphertextBlob)), sealed[header.Size:]...)

	plaintext, err := sealer.Open(ctx, moved, invoices)
	fmt.Printf("%s %v\n", plaintext, err)
	_, err = sealer.Open(ctx, moved, map[string]string{"tenant": "b", "purpose": "invoices"})
	fmt.Println(err)
	_, err = sealer.Seal(ctx, []byte("a plan"), map[string]string{"purpose": "plans"})
	fmt.Println(err)
	// Output:
	// an invoice <nil>
	// open: wrong encryption context: "tenant" differs
	// seal: wrong encryption context: the attribute "purpose" has a value that the rules do not allow; the attribute "tenant", which the rules require, is missing
}
