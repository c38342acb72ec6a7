package envelope_test

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/cmkeeper/cmkeeper/envelope"
	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
)

func Example() {
	ctx := context.Background()
	server := localaws.New(localaws.Options{Account: "111122223333", Region: "eu-west-1"})
	defer server.Close()
	client := kms.NewFromConfig(inprocess.Config(server, "eu-west-1", "app"))
	createKey := func() string {
		out, err := client.CreateKey(ctx, &kms.CreateKeyInput{})
		if err != nil {
			log.Fatal(err)
		}
		return *out.KeyMetadata.Arn
	}
	if _, err := client.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: aws.String("alias/app"), TargetKeyId: aws.String(createKey())}); err != nil {
		log.Fatal(err)
	}

	rules, err := envelope.ParseRules([]byte(`{"required": ["tenant", "purpose"], "values": {"purpose": ["invoices", "backups"]}}`))
	if err != nil {
		log.Fatal(err)
	}
	sealer, err := envelope.New(client, "arn:aws:kms:eu-west-1:111122223333:alias/app", envelope.Options{
		Rules: rules,
		Cache: envelope.Cache{MaxAge: 5 * time.Minute, MaxMessages: 10_000, MaxBytes: 1 << 30, MaxEntries: 100},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer sealer.Close()

	invoices := map[string]string{"tenant": "a", "purpose": "invoices"}
	sealed, err := sealer.Seal(ctx, []byte("an invoice"), invoices)
	if err != nil {
		log.Fatal(err)
	}

	// Somebody moves the message to another KMS key, who may not decrypt it.
	header, err := envelope.ReadHeader(bytes.NewReader(sealed))
	if err != nil {
		log.Fatal(err)
	}
	out, err := client.ReEncrypt(ctx, &kms.ReEncryptInput{
		CiphertextBlob: header.WrappedKey, SourceKeyId: aws.String(header.KeyARN), SourceEncryptionContext: header.Context,
		DestinationKeyId: aws.String(createKey()), DestinationEncryptionContext: header.Context,
	})
	if err != nil {
		log.Fatal(err)
	}
	moved, err := header.Rewrapped(*out.KeyId, out.CiphertextBlob)
	if err != nil {
		log.Fatal(err)
	}
	moved = append(moved, sealed[header.Size:]...)

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
