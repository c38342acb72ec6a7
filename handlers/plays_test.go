package handlers_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudtrail"
	cloudtrailtypes "github.com/aws/aws-sdk-go-v2/service/cloudtrail/types"
	"github.com/aws/aws-sdk-go-v2/service/eventbridge"
	eventbridgetypes "github.com/aws/aws-sdk-go-v2/service/eventbridge/types"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/deploy"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/localaws/iam"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
)

// play is how a row of the event table comes about, and what is to come of it.
type play struct {
	// change varies the configuration.
	change func(*reaction.Config)
	// policy and contain: the mode is also that of key policies, which else observe,
	// and of containment, which else is off.
	policy, contain bool
	// do makes the event happen and returns the key that it is about, "" for none.
	do func(*world) (key string)
	// severity of the alert that is told; "" for none.
	severity finding.Severity
	// live is what mode enforce is to have done, checked with the key: what is wrong, or "".
	live func(w *world, key string) string
	// title is in the alert's title.
	title string
}

const (
	stranger  = "999988887777"
	listed    = "alias/app-orders"
	ownRule   = "cmkeeper-extra"
	ownQueue  = "cmkeeper-extra-queue"
	ownTopic  = "cmkeeper-extra-topic"
	denyPlain = `{"Version":"2012-10-17","Statement":[{"Sid":"Encrypted","Effect":"Deny","Principal":"*","Action":"s3:PutObject","Resource":"arn:aws:s3:::orders-data/*","Condition":{"StringNotEquals":{"s3:x-amz-server-side-encryption":"aws:kms"}}}]}`
)

// plays has a play for every row of the table, by the row's key.
var plays = map[string]play{
	"DisableKeyRotation/rotation": {severity: finding.High, live: rotatesEvery(180), do: func(w *world) string {
		key := w.rotatingKey(180)
		w.disableRotation(key)
		return key
	}},
	"EnableKeyRotation/rotation": {severity: finding.Medium, live: rotatesEvery(365), do: func(w *world) string {
		key := w.rotatingKey(180)
		w.enableRotation(key, 2560)
		return key
	}},
	"CreateKey/rotation": {severity: finding.Medium, live: rotatesEvery(365),
		change: func(c *reaction.Config) { c.Posture.RotationRequired = true },
		do:     func(w *world) string { return w.newKey(kms.CreateKeyInput{}) }},
	"CreateKey/policy": {severity: finding.Critical, do: func(w *world) string {
		return w.newKey(kms.CreateKeyInput{Policy: aws.String(takeover)})
	}},
	"CreateKey/note": {severity: finding.Info, title: "was created", do: func(w *world) string { return w.newKey(kms.CreateKeyInput{}) }},
	"CancelKeyDeletion/note": {severity: finding.Info, title: "was cancelled", change: func(c *reaction.Config) { c.Deletion = reaction.Off }, do: func(w *world) string {
		key := w.knownKey("alias/orders")
		w.scheduleDeletion(key)
		must(w.kms.CancelKeyDeletion(w.ctx, &kms.CancelKeyDeletionInput{KeyId: &key}))
		return key
	}},
	"EnableKeyRotation/note": {severity: finding.Info, title: "was turned on", do: func(w *world) string {
		key := w.knownKey("alias/orders")
		w.enableRotation(key, 180)
		return key
	}},
	"EnableKey/rotation": {severity: finding.High, live: rotatesEvery(180),
		change: func(c *reaction.Config) { c.Deletion = reaction.Off },
		do: func(w *world) string {
			key := w.rotatingKey(180)
			w.disableRotation(key)
			w.disable(key)
			must(w.kms.EnableKey(w.ctx, &kms.EnableKeyInput{KeyId: &key}))
			return key
		}},
	"CancelKeyDeletion/rotation": {change: func(c *reaction.Config) { c.Deletion = reaction.Off }, do: func(w *world) string {
		key := w.rotatingKey(180)
		w.disableRotation(key)
		w.scheduleDeletion(key)
		must(w.kms.CancelKeyDeletion(w.ctx, &kms.CancelKeyDeletionInput{KeyId: &key}))
		return key
	}},
	"ImportKeyMaterial/rotation": {do: func(w *world) string { return w.importedKey(nil) }},
	"ImportKeyMaterial/material": {severity: finding.High, title: "will expire", do: func(w *world) string {
		return w.importedKey(aws.Time(time.Now().Add(time.Hour)))
	}},
	"UpdatePrimaryRegion/rotation": {severity: finding.High, title: "is off", live: rotatesEvery(180), do: func(w *world) string {
		key := w.newKey(kms.CreateKeyInput{MultiRegion: aws.Bool(true)})
		w.enableRotation(key, 180)
		w.react()
		w.told.take()
		w.disableRotation(key)
		w.record("kms", "UpdatePrimaryRegion", `"requestParameters":{"keyId":"`+key+`","primaryRegion":"`+region+`"}`)
		return key
	}},
	"UpdatePrimaryRegion/primary": {severity: finding.Medium, title: "us-west-2", do: func(w *world) string {
		key := w.newKey(kms.CreateKeyInput{MultiRegion: aws.Bool(true)})
		must(w.kms.ReplicateKey(w.ctx, &kms.ReplicateKeyInput{KeyId: &key, ReplicaRegion: aws.String("us-west-2")}))
		w.events()
		must(w.kms.UpdatePrimaryRegion(w.ctx, &kms.UpdatePrimaryRegionInput{KeyId: &key, PrimaryRegion: aws.String("us-west-2")}))
		return key
	}},
	"RotateKeyOnDemand/rotated": {severity: finding.Medium, title: "at least 3 times within 30 days", do: func(w *world) string {
		key := w.knownKey("alias/orders")
		for range 3 {
			must(w.kms.RotateKeyOnDemand(w.ctx, &kms.RotateKeyOnDemandInput{KeyId: &key}))
			time.Sleep(time.Hour)
		}
		return key
	}},
	"UpdateKeyDescription/canary": {severity: finding.Medium, title: "no canary is sent any more", do: func(w *world) string {
		key := w.canaryKey("")
		must(w.kms.UpdateKeyDescription(w.ctx, &kms.UpdateKeyDescriptionInput{KeyId: &key, Description: aws.String("mine")}))
		return key
	}},
	"RotateKey/rotated":        {do: rotateOnDemand},
	"KMS CMK Rotation/rotated": {do: rotateOnDemand},

	"PutKeyPolicy/policy": {severity: finding.Critical, live: hasPolicy(rootOnly),
		policy: true,
		do: func(w *world) string {
			key := w.guardedKey()
			w.putPolicy(key, takeover)
			return key
		}},
	"ReplicateKey/policy": {severity: finding.Critical, title: "us-west-2", do: func(w *world) string {
		key := w.newKey(kms.CreateKeyInput{MultiRegion: aws.Bool(true)})
		must(w.kms.ReplicateKey(w.ctx, &kms.ReplicateKeyInput{KeyId: &key, ReplicaRegion: aws.String("us-west-2"), Policy: aws.String(takeover)}))
		return key
	}},

	"CreateKey/containment": {severity: finding.Critical, title: "was opened", live: isState("Disabled"), contain: true, do: func(w *world) string {
		return w.newKey(kms.CreateKeyInput{Policy: aws.String(public)})
	}},
	"PutKeyPolicy/containment": {severity: finding.Critical, title: "was opened", live: isState("Disabled"), contain: true, do: func(w *world) string {
		key := w.knownKey("alias/orders")
		w.putPolicy(key, public)
		return key
	}},
	"CreateGrant/containment": {severity: finding.Critical, title: "was opened", live: isState("Disabled"), contain: true, do: func(w *world) string {
		key := w.knownKey("alias/orders")
		w.grant(key, "arn:aws:iam::"+stranger+":role/visitor")
		return key
	}},
	"EnableKey/containment": {severity: finding.Critical, title: "still open", live: isState("Disabled"), contain: true, do: func(w *world) string {
		key := w.knownKey("alias/orders")
		played, enforcing := w.router, playConfig(reaction.Enforce, play{contain: true})
		w.router = w.newRouter(enforcing)
		role := w.role.Swap(templateRole(enforcing))
		w.putPolicy(key, public)
		w.react()
		w.told.take()
		w.router = played
		w.role.Store(role)
		w.enable(key)
		return key
	}},

	"ScheduleKeyDeletion/deletion": {severity: finding.Critical, live: isState("Enabled"), do: func(w *world) string {
		key := w.knownKey("alias/orders")
		w.scheduleDeletion(key)
		return key
	}},
	"DisableKey/deletion": {severity: finding.Critical, live: isState("Enabled"), do: func(w *world) string {
		key := w.knownKey("alias/orders")
		w.disable(key)
		return key
	}},
	"DeleteImportedKeyMaterial/deletion": {severity: finding.Critical, do: func(w *world) string {
		key := w.importedKey(nil)
		must(w.kms.DeleteImportedKeyMaterial(w.ctx, &kms.DeleteImportedKeyMaterialInput{KeyId: &key}))
		return key
	}},
	"DeleteExpiredKeyMaterial/deletion":             {severity: finding.Critical, do: expire},
	"KMS Imported Key Material Expiration/deletion": {severity: finding.Critical, do: expire},
	"DeleteKey/deletion":                            {severity: finding.Critical, title: "was deleted", do: deleteKey},
	"KMS CMK Deletion/deletion":                     {severity: finding.Critical, title: "was deleted", do: deleteKey},

	"CreateGrant/grant": {severity: finding.High, do: func(w *world) string {
		key := w.knownKey("alias/orders")
		w.grant(key, "arn:aws:iam::"+stranger+":role/visitor")
		return key
	}},
	"RevokeGrant/grant": {severity: finding.Low, title: "revoked", do: func(w *world) string {
		key := w.knownKey("alias/orders")
		id := w.grant(key, "arn:aws:iam::"+account+":role/reader")
		must(w.kms.RevokeGrant(w.ctx, &kms.RevokeGrantInput{KeyId: &key, GrantId: &id}))
		return key
	}},
	"RetireGrant/grant": {do: func(w *world) string {
		key := w.knownKey("alias/orders")
		id := w.grant(key, "arn:aws:iam::"+account+":role/reader")
		must(w.kms.RetireGrant(w.ctx, &kms.RetireGrantInput{KeyId: &key, GrantId: &id}))
		return key
	}},
	"TagResource/tags": {severity: finding.High, title: "approved", do: func(w *world) string {
		key := w.knownKey("alias/orders")
		w.tagKey(key, "cmkeeper:deletion-approved", "2000-01-01")
		return key
	}},
	"UntagResource/tags": {severity: finding.Medium, change: func(c *reaction.Config) { c.WatchedTags = []string{"class"} }, do: func(w *world) string {
		key := w.knownKey("alias/orders")
		w.tagKey(key, "class", "secret")
		must(w.kms.UntagResource(w.ctx, &kms.UntagResourceInput{KeyId: &key, TagKeys: []string{"class"}}))
		return key
	}},

	"CreateCustomKeyStore/key-store": {severity: finding.Medium, title: "vault", do: func(w *world) string {
		w.keyStore()
		return ""
	}},
	"UpdateCustomKeyStore/key-store": {severity: finding.High, do: func(w *world) string {
		store := w.keyStore()
		must(w.kms.UpdateCustomKeyStore(w.ctx, &kms.UpdateCustomKeyStoreInput{CustomKeyStoreId: &store, NewCustomKeyStoreName: aws.String("cellar")}))
		return ""
	}},
	"ConnectCustomKeyStore/key-store": {severity: finding.Info, do: func(w *world) string {
		store := w.keyStore()
		must(w.kms.ConnectCustomKeyStore(w.ctx, &kms.ConnectCustomKeyStoreInput{CustomKeyStoreId: &store}))
		return ""
	}},
	"DisconnectCustomKeyStore/key-store": {severity: finding.Critical, title: "vault", do: func(w *world) string {
		store := w.keyStore()
		must(w.kms.ConnectCustomKeyStore(w.ctx, &kms.ConnectCustomKeyStoreInput{CustomKeyStoreId: &store}))
		w.newKey(kms.CreateKeyInput{CustomKeyStoreId: &store, Origin: types.OriginTypeAwsCloudhsm})
		must(w.kms.DisconnectCustomKeyStore(w.ctx, &kms.DisconnectCustomKeyStoreInput{CustomKeyStoreId: &store}))
		return ""
	}},
	"DeleteCustomKeyStore/key-store": {severity: finding.High, do: func(w *world) string {
		store := w.keyStore()
		must(w.kms.DeleteCustomKeyStore(w.ctx, &kms.DeleteCustomKeyStoreInput{CustomKeyStoreId: &store}))
		return ""
	}},

	"CreateAlias/alias": {severity: finding.Medium, live: movesData, do: func(w *world) string {
		old := w.aliasWithData()
		w.deleteAlias(listed)
		key := w.newKey(kms.CreateKeyInput{})
		w.createAlias(listed, key)
		_ = old
		return key
	}},
	"UpdateAlias/alias": {severity: finding.Medium, live: movesData, do: func(w *world) string {
		w.aliasWithData()
		key := w.newKey(kms.CreateKeyInput{})
		w.updateAlias(listed, key)
		return key
	}},
	"DeleteAlias/alias": {severity: finding.High, title: listed, do: func(w *world) string {
		key := w.aliasWithData()
		w.deleteAlias(listed)
		return key
	}},

	"StopLogging/tamper": {severity: finding.Critical, do: func(w *world) string {
		must(w.trails().StopLogging(w.ctx, &cloudtrail.StopLoggingInput{Name: aws.String("main")}))
		return ""
	}},
	"DeleteTrail/tamper": {severity: finding.Critical, do: func(w *world) string {
		must(w.trails().DeleteTrail(w.ctx, &cloudtrail.DeleteTrailInput{Name: aws.String("main")}))
		return ""
	}},
	"UpdateTrail/tamper": {severity: finding.Medium, do: func(w *world) string {
		must(w.trails().UpdateTrail(w.ctx, &cloudtrail.UpdateTrailInput{Name: aws.String("main"), IsMultiRegionTrail: aws.Bool(false)}))
		return ""
	}},
	"PutEventSelectors/tamper": {severity: finding.Critical, do: func(w *world) string {
		must(w.trails().PutEventSelectors(w.ctx, &cloudtrail.PutEventSelectorsInput{TrailName: aws.String("main"), EventSelectors: []cloudtrailtypes.EventSelector{{
			IncludeManagementEvents: aws.Bool(true), ReadWriteType: cloudtrailtypes.ReadWriteTypeAll, ExcludeManagementEventSources: []string{"kms.amazonaws.com"},
		}}}))
		return ""
	}},
	"DisableRule/tamper": {severity: finding.Critical, do: func(w *world) string {
		must(w.rule().DisableRule(w.ctx, &eventbridge.DisableRuleInput{Name: aws.String(ownRule)}))
		return ""
	}},
	"DeleteRule/tamper": {severity: finding.Critical, do: func(w *world) string {
		must(w.rule().DeleteRule(w.ctx, &eventbridge.DeleteRuleInput{Name: aws.String(ownRule)}))
		return ""
	}},
	"RemoveTargets/tamper": {severity: finding.Critical, do: func(w *world) string {
		bus := w.rule()
		w.target(bus)
		must(bus.RemoveTargets(w.ctx, &eventbridge.RemoveTargetsInput{Rule: aws.String(ownRule), Ids: []string{"1"}}))
		return ""
	}},
	"PutRule/tamper": {severity: finding.High, do: func(w *world) string {
		w.rule()
		return ""
	}},
	"PutTargets/tamper": {severity: finding.Medium, do: func(w *world) string {
		w.target(w.rule())
		return ""
	}},
	"DeleteQueue/tamper": {severity: finding.Critical, title: ownQueue, do: func(w *world) string {
		must(w.sqs.DeleteQueue(w.ctx, &sqs.DeleteQueueInput{QueueUrl: w.spareQueue()}))
		return ""
	}},
	"PurgeQueue/tamper": {severity: finding.Critical, do: func(w *world) string {
		must(w.sqs.PurgeQueue(w.ctx, &sqs.PurgeQueueInput{QueueUrl: w.spareQueue()}))
		return ""
	}},
	"SetQueueAttributes/tamper": {severity: finding.High, do: func(w *world) string {
		must(w.sqs.SetQueueAttributes(w.ctx, &sqs.SetQueueAttributesInput{QueueUrl: w.spareQueue(), Attributes: map[string]string{"MessageRetentionPeriod": "60"}}))
		return ""
	}},
	"DeleteTopic/tamper": {severity: finding.Critical, title: ownTopic, do: func(w *world) string {
		topics, topic, _ := w.spareTopic()
		must(topics.DeleteTopic(w.ctx, &sns.DeleteTopicInput{TopicArn: &topic}))
		return ""
	}},
	"SetTopicAttributes/tamper": {severity: finding.High, do: func(w *world) string {
		topics, topic, _ := w.spareTopic()
		must(topics.SetTopicAttributes(w.ctx, &sns.SetTopicAttributesInput{TopicArn: &topic, AttributeName: aws.String("Policy"), AttributeValue: aws.String(strings.ReplaceAll(rootOnly, "kms:*", "sns:Publish"))}))
		return ""
	}},
	"Unsubscribe/tamper": {severity: finding.High, do: func(w *world) string {
		topics, _, subscription := w.spareTopic()
		must(topics.Unsubscribe(w.ctx, &sns.UnsubscribeInput{SubscriptionArn: &subscription}))
		return ""
	}},
	"SetSubscriptionAttributes/tamper": {severity: finding.High, do: func(w *world) string {
		w.record("sns", "SetSubscriptionAttributes", `"requestParameters":{"subscriptionArn":"arn:aws:sns:`+region+`:`+account+`:`+ownTopic+`:0d9c8b7a","attributeName":"FilterPolicy","attributeValue":"{}"}`)
		return ""
	}},

	"PutBucketEncryption/defaults": {severity: finding.Critical, title: "another account", do: func(w *world) string {
		w.sealedBucket()
		w.setDefault("arn:aws:kms:" + region + ":" + stranger + ":key/0a1b2c3d-1111-4222-8333-9e8d7c6b5a40")
		return ""
	}},
	"DeleteBucketEncryption/defaults": {severity: finding.High, title: "orders-data", do: func(w *world) string {
		w.sealedBucket()
		must(w.s3.DeleteBucketEncryption(w.ctx, &s3.DeleteBucketEncryptionInput{Bucket: aws.String("orders-data")}))
		return ""
	}},
	"PutBucketPolicy/defaults": {severity: finding.Medium, title: "no longer denies", do: func(w *world) string {
		w.sealedBucket()
		must(w.s3.PutBucketPolicy(w.ctx, &s3.PutBucketPolicyInput{Bucket: aws.String("orders-data"), Policy: aws.String(strings.ReplaceAll(denyPlain, "StringNotEquals\":{\"s3:x-amz-server-side-encryption\":\"aws:kms\"", "Bool\":{\"aws:SecureTransport\":\"false\""))}))
		return ""
	}},
	"DeleteBucketPolicy/defaults": {severity: finding.Medium, title: "no longer denies", do: func(w *world) string {
		w.sealedBucket()
		must(w.s3.DeleteBucketPolicy(w.ctx, &s3.DeleteBucketPolicyInput{Bucket: aws.String("orders-data")}))
		return ""
	}},
	"PutBucketTagging/bucket-tags": {severity: finding.Medium, title: "orders-data", do: func(w *world) string {
		w.sealedBucket()
		w.tag("orders-data", "alias/orders")
		w.events()
		w.record("s3", "PutBucketTagging", `"requestParameters":{"bucketName":"orders-data","tagging":""}`)
		return ""
	}},
	"DeleteBucketTagging/bucket-tags": {severity: finding.Medium, title: "orders-data", do: func(w *world) string {
		w.sealedBucket()
		w.tag("orders-data", "alias/orders")
		w.events()
		w.sweep()
		must(w.s3.DeleteBucketTagging(w.ctx, &s3.DeleteBucketTaggingInput{Bucket: aws.String("orders-data")}))
		w.events()
		w.record("s3", "DeleteBucketTagging", `"requestParameters":{"bucketName":"orders-data","tagging":""}`)
		return ""
	}},
	"CreateVolume/new-data": {severity: finding.Medium, title: "vol-1", do: func(w *world) string {
		w.record("ec2", "CreateVolume", `"requestParameters":{"size":"8"},"responseElements":{"volumeId":"vol-1","encrypted":false}`)
		return ""
	}},
	"DisableEbsEncryptionByDefault/new-data": {severity: finding.High, do: func(w *world) string {
		w.record("ec2", "DisableEbsEncryptionByDefault", `"requestParameters":{},"responseElements":{"ebsEncryptionByDefault":false}`)
		return ""
	}},
	"CreateDBInstance/new-data": {severity: finding.Medium, title: "orders", do: func(w *world) string {
		w.record("rds", "CreateDBInstance", `"requestParameters":{"dBInstanceIdentifier":"orders","storageEncrypted":false}`)
		return ""
	}},
	"CreateDBCluster/new-data": {severity: finding.High, title: "another account", do: func(w *world) string {
		w.record("rds", "CreateDBCluster", `"requestParameters":{"dBClusterIdentifier":"orders","storageEncrypted":true,"kmsKeyId":"arn:aws:kms:`+region+`:`+stranger+`:key/0a1b2c3d-1111-4222-8333-9e8d7c6b5a40"}`)
		return ""
	}},

	"JobStatusChanged/batch": {live: looksAtJobs, do: func(w *world) string {
		w.record("s3", "JobStatusChanged", `"eventType":"AwsServiceEvent","serviceEventDetails":{"jobId":"d6e58ec4","status":"Complete"}`)
		return ""
	}},
	"scheduled/sweep": {live: rotatesEvery(180), do: func(w *world) string {
		key := w.rotatingKey(180)
		w.disableRotation(key)
		w.events() // lost
		bus := eventbridge.NewFromConfig(inprocess.Config(w.aws, region, "mallory"))
		must(bus.PutRule(w.ctx, &eventbridge.PutRuleInput{Name: aws.String("sweep"), ScheduleExpression: aws.String("rate(15 minutes)")}))
		must(bus.PutTargets(w.ctx, &eventbridge.PutTargetsInput{Rule: aws.String("sweep"), Targets: []eventbridgetypes.Target{{
			Id: aws.String("1"), Arn: aws.String("arn:aws:sqs:" + region + ":" + account + ":events"),
		}}}))
		time.Sleep(16 * time.Minute)
		return key
	}},
}

// failedUse plays a use of a key that was turned away.
func failedUse(name string) play {
	return play{severity: finding.Medium, title: name, change: func(c *reaction.Config) { c.FailedUse, c.Deletion = true, reaction.Off }, do: func(w *world) string {
		key := w.knownKey("alias/orders")
		w.disable(key)
		w.record("kms", name, `"readOnly":true,"errorCode":"DisabledException","errorMessage":"the key is disabled","requestParameters":{"keyId":"`+key+`","encryptionContext":{"aws:s3:arn":"arn:aws:s3:::orders-data/2026/7.csv"}},"resources":[{"ARN":"`+key+`"}]`)
		return key
	}}
}

func rotatesEvery(days int32) func(*world, string) string {
	return func(w *world, key string) string {
		if got := w.rotation(key); got != days {
			return fmt.Sprintf("rotation period %d, want %d", got, days)
		}
		return ""
	}
}

func isState(want string) func(*world, string) string {
	return func(w *world, key string) string {
		if got := w.state(key); got != want {
			return "state " + got + ", want " + want
		}
		return ""
	}
}

func hasPolicy(want string) func(*world, string) string {
	return func(w *world, key string) string {
		if got := w.livePolicy(key); got != want {
			return "policy " + got
		}
		return ""
	}
}

func movesData(w *world, key string) string {
	if n := len(w.moves.moves); n != 1 || w.moves.moves[0].To != key {
		return fmt.Sprintf("%d moves were started: %v", n, w.moves.moves)
	}
	return ""
}

func looksAtJobs(w *world, _ string) string {
	if w.moves.changed != 1 {
		return fmt.Sprintf("batch jobs were looked at %d times", w.moves.changed)
	}
	return ""
}

func rotateOnDemand(w *world) string {
	key := w.knownKey("alias/orders")
	must(w.kms.RotateKeyOnDemand(w.ctx, &kms.RotateKeyOnDemandInput{KeyId: &key}))
	time.Sleep(time.Hour)
	return key
}

func expire(w *world) string {
	key := w.importedKey(aws.Time(time.Now().Add(time.Hour)))
	time.Sleep(2 * time.Hour)
	return key
}

func deleteKey(w *world) string {
	key := w.knownKey("alias/orders")
	w.scheduleDeletion(key)
	w.events()
	time.Sleep(8 * 24 * time.Hour)
	return key
}

func (w *world) importedKey(expires *time.Time) string {
	key := w.newKey(kms.CreateKeyInput{Origin: types.OriginTypeExternal})
	w.importMaterial(key, make([]byte, 32), expires)
	return key
}

func (w *world) grant(key, grantee string) (id string) {
	return *must(w.kms.CreateGrant(w.ctx, &kms.CreateGrantInput{
		KeyId: &key, GranteePrincipal: &grantee, RetiringPrincipal: aws.String("arn:aws:iam::" + account + ":user/mallory"),
		Operations: []types.GrantOperation{types.GrantOperationDecrypt, types.GrantOperationRetireGrant},
	})).GrantId
}

func (w *world) keyStore() (id string) {
	return *must(w.kms.CreateCustomKeyStore(w.ctx, &kms.CreateCustomKeyStoreInput{
		CustomKeyStoreName: aws.String("vault"), CloudHsmClusterId: aws.String("cluster-1a23b4cdefg"),
		KeyStorePassword: aws.String("kmsPswd1"), TrustAnchorCertificate: aws.String("certificate"),
	})).CustomKeyStoreId
}

// aliasWithData is a listed alias that a bucket's default encryption names.
func (w *world) aliasWithData() (key string) {
	key = w.knownKey(listed)
	w.bucket("orders-data", listed)
	w.sweep()
	w.told.take()
	return key
}

// sealedBucket is a bucket that a sweep has seen under a key of its own.
func (w *world) sealedBucket() {
	key := w.knownKey("alias/orders")
	w.bucket("orders-data", key)
	must(w.s3.PutBucketPolicy(w.ctx, &s3.PutBucketPolicyInput{Bucket: aws.String("orders-data"), Policy: aws.String(denyPlain)}))
	w.events()
	w.sweep()
}

func (w *world) setDefault(key string) {
	must(w.s3.PutBucketEncryption(w.ctx, defaultKey("orders-data", key)))
}

func (w *world) trails() *cloudtrail.Client {
	client := cloudtrail.NewFromConfig(inprocess.Config(w.aws, region, "mallory"))
	w.bucket("trail-logs", "")
	must(client.CreateTrail(w.ctx, &cloudtrail.CreateTrailInput{Name: aws.String("main"), S3BucketName: aws.String("trail-logs"), IsMultiRegionTrail: aws.Bool(true)}))
	must(client.StartLogging(w.ctx, &cloudtrail.StartLoggingInput{Name: aws.String("main")}))
	return client
}

func (w *world) rule() *eventbridge.Client {
	bus := eventbridge.NewFromConfig(inprocess.Config(w.aws, region, "mallory"))
	must(bus.PutRule(w.ctx, &eventbridge.PutRuleInput{Name: aws.String(ownRule), EventPattern: aws.String(handlers.KMSPattern)}))
	return bus
}

func (w *world) target(bus *eventbridge.Client) {
	must(bus.PutTargets(w.ctx, &eventbridge.PutTargetsInput{Rule: aws.String(ownRule), Targets: []eventbridgetypes.Target{{
		Id: aws.String("1"), Arn: aws.String("arn:aws:sqs:" + region + ":" + account + ":nowhere"),
	}}}))
}

func (w *world) spareQueue() (url *string) {
	return must(w.sqs.CreateQueue(w.ctx, &sqs.CreateQueueInput{QueueName: aws.String(ownQueue)})).QueueUrl
}

func (w *world) spareTopic() (topics *sns.Client, topic, subscription string) {
	topics = sns.NewFromConfig(inprocess.Config(w.aws, region, "mallory"))
	topic = *must(topics.CreateTopic(w.ctx, &sns.CreateTopicInput{Name: aws.String(ownTopic)})).TopicArn
	subscription = *must(topics.Subscribe(w.ctx, &sns.SubscribeInput{
		TopicArn: &topic, Protocol: aws.String("sqs"), Endpoint: aws.String("arn:aws:sqs:" + region + ":" + account + ":events"), ReturnSubscriptionArn: true,
	})).SubscriptionArn
	return topics, topic, subscription
}

// record puts a CloudTrail record on the bus, made of a service, a name and further members.
func (w *world) record(service, name, more string) {
	w.t.Helper()
	record := `{"eventSource":"` + service + `.amazonaws.com","eventName":"` + name + `",` + more + `}`
	if err := w.aws.Record(json.RawMessage(record)); err != nil {
		w.t.Fatalf("%v in %s", err, record)
	}
}

// TestEveryRowIsPlayed plays every row of the event table in observe and in
// enforce, from the call to the alert, and to the live state.
func TestEveryRowIsPlayed(t *testing.T) {
	played := map[string]bool{}
	for _, row := range handlers.TableRows() {
		p, ok := plays[row.Key]
		if row.Unusable {
			p, ok = failedUse(row.Name), true
		}
		if !ok {
			t.Errorf("%s has no play", row.Key)
			continue
		}
		if row.Enforces && p.live == nil {
			t.Errorf("%s does something in mode enforce, which its play does not check", row.Key)
		}
		played[row.Key] = true
		for _, mode := range []reaction.Mode{reaction.Observe, reaction.Enforce} {
			t.Run(row.Key+"/"+string(mode), func(t *testing.T) { playRow(t, row, p, mode) })
		}
	}
	for key := range plays {
		if !played[key] {
			t.Errorf("%s is played, but is no row", key)
		}
	}
}

// play plays a row and returns the key that it is about.
func (w *world) play(row handlers.TableRow, p play) (key string) {
	w.t.Helper()
	key = p.do(w)
	for _, body := range w.events() {
		if is(row, body) {
			if err := w.handle(body); err != nil {
				w.t.Fatal(err)
			}
		}
	}
	w.react() // what that made arrive
	return key
}

func playRow(t *testing.T, row handlers.TableRow, p play, mode reaction.Mode) {
	c := playConfig(mode, p)
	inWorld(t, c, func(w *world) {
		w.told.notes = row.Reaction == "note"
		defer w.underTheTemplate(c)()
		key := w.play(row, p)
		var told []alert.Alert
		for _, a := range w.told.take() {
			switch {
			case a.Kind == row.Alert && a.EventName == row.Name && strings.Contains(a.Title, p.title):
				told = append(told, a)
			case a.Kind == alert.KindGuard && row.Alert != alert.KindGuard:
				t.Errorf("our own call was taken for somebody else's:\n%s", a.Text())
			}
		}
		switch {
		case p.severity == "" && len(told) > 0:
			t.Errorf("told:\n%s", texts(told))
		case p.severity == "":
		case len(told) != 1:
			t.Fatalf("%d alerts, want one:\n%s", len(told), texts(told))
		default:
			checkPlayed(t, row, p, mode, key, told[0])
		}
		if mode == reaction.Enforce && p.live != nil {
			if wrong := p.live(w, key); wrong != "" {
				t.Error(wrong)
			}
		}
	})
}

// templateRole is the role that the template of the deployment has for a configuration.
func templateRole(c reaction.Config) *iam.Policy {
	stack := must(must(deploy.Parse(deploy.Source)).Deploy(deploy.Place{
		Account: account, Region: region, Stack: "cmkeeper", IDs: map[string]string{"StateBucket": stateBucket},
		Parameters: map[string]string{
			"Image": "cmkeeper", "VpcId": "vpc", "Subnets": "subnet", "ReencryptAliases": "alias/app-*",
			"RotationMode": mode(c.Rotation), "PolicyMode": mode(c.Policy), "DeletionMode": mode(c.Deletion), "ContainMode": mode(c.Contain), "ReencryptMode": mode(c.Reencrypt),
		},
	}))
	return must(iam.ParseIdentity(must(stack.RolePolicy("EventsRole"))))
}

// underTheTemplate holds the worker to that role. What it returns fails the test where it
// was not enough.
func (w *world) underTheTemplate(c reaction.Config) (check func()) {
	w.role.Store(templateRole(c))
	var mu sync.Mutex
	var refused []string
	w.aws.SetIdentityPolicy(keeperKey, func(action, resource string) bool {
		if w.role.Load().Evaluate(iam.Request{Action: action, Resource: resource}) == iam.Allow {
			return true
		}
		mu.Lock()
		defer mu.Unlock()
		refused = append(refused, action+" on "+resource)
		return false
	})
	return func() {
		w.t.Helper()
		mu.Lock()
		defer mu.Unlock()
		if len(refused) > 0 {
			w.t.Errorf("the role of the template refused %q", refused)
		}
	}
}

// mode is a mode as the template has it.
func mode(m reaction.Mode) string { return string(cmp.Or(m, reaction.Off)) }

// checkPlayed checks what every alert of the table has to say.
func checkPlayed(t *testing.T, row handlers.TableRow, p play, mode reaction.Mode, key string, a alert.Alert) {
	t.Helper()
	want := alert.StatusNone
	switch {
	case row.Enforces && mode == reaction.Enforce:
		want = alert.StatusDone
	case row.Enforces:
		want = alert.StatusWouldDo
	}
	if a.Severity != p.severity || a.Action.Status != want {
		t.Errorf("severity %s and status %s, want %s and %s:\n%s", a.Severity, a.Action.Status, p.severity, want, a.Text())
	}
	byNobody := row.Kind != events.APICall
	if key != "" && (a.Key == nil || a.Key.ARN != key) || !byNobody && a.Actor == nil || a.Risk == "" || a.Action.Description == "" || len(a.Next) == 0 || a.EventID == "" || a.Time.IsZero() {
		t.Errorf("the alert leaves something open:\n%s", a.Text())
	}
}

// playConfig is a deployment in which every rule, queue and topic of the plays is ours.
func playConfig(mode reaction.Mode, p play) reaction.Config {
	c := enforceAll()
	c.Rotation, c.Deletion, c.Reencrypt, c.Policy = mode, mode, mode, reaction.Observe
	c.EventRules = []string{"cmkeeper-*"}
	c.Queues = []string{ownQueue}
	c.Topics = []string{"arn:aws:sns:" + region + ":" + account + ":" + ownTopic}
	if p.policy {
		c.Policy = mode
	}
	if p.contain {
		c.Contain = mode
	}
	if p.change != nil {
		p.change(&c)
	}
	return c
}

// concerned is what a refused call has to name to be about something of ours.
var concerned = map[string]string{
	events.SourceCloudTrail: `{"name":"main","trailName":"main"}`, events.SourceEventBridge: `{"name":"` + ownRule + `"}`,
	events.SourceSQS: `{"queueUrl":"https://sqs.` + region + `.amazonaws.com/` + account + `/` + ownQueue + `"}`,
	events.SourceSNS: `{"topicArn":"arn:aws:sns:` + region + `:` + account + `:` + ownTopic + `"}`,
	events.SourceS3:  `{"bucketName":"orders-data"}`,
}

// TestEveryRefusedAttemptIsTold plays the refused attempts of the event table,
// and checks that nothing is repaired because of them.
func TestEveryRefusedAttemptIsTold(t *testing.T) {
	inWorld(t, playConfig(reaction.Enforce, play{policy: true}), func(w *world) {
		key := w.rotatingKey(180)
		before := w.repairs()
		for _, row := range handlers.TableRows() {
			if row.Refused == "" {
				continue
			}
			parameters := concerned[row.Source]
			if parameters == "" {
				parameters = `{"keyId":"` + key + `"}`
			}
			service, _, _ := strings.Cut(row.Source, ".")
			w.record(service, row.Name, `"errorCode":"AccessDenied","errorMessage":"not authorized","requestParameters":`+parameters)
			w.react()
			told := w.told.take()
			if len(told) != 1 || told[0].Kind != alert.KindAccess || told[0].Severity != row.Refused || told[0].Actor == nil || len(told[0].Next) == 0 {
				t.Errorf("%s: %d alerts:\n%s", row.Key, len(told), texts(told))
			}
		}
		if n := w.repairs() - before; n > 0 || w.rotation(key) != 180 || w.state(key) != "Enabled" {
			t.Errorf("%d changes were made because of calls that were refused", n)
		}
	})
}

// repairs is how often anything was asked of KMS that changes a key back.
func (w *world) repairs() (n int) {
	for _, operation := range []string{"EnableKeyRotation", "CancelKeyDeletion", "EnableKey", "DisableKey", "PutKeyPolicy"} {
		n += w.aws.Requests("kms", operation)
	}
	return n
}

// is reports whether a message is about the row's event.
func is(row handlers.TableRow, body string) bool {
	e, err := events.Parse([]byte(body))
	if err != nil || e.Kind == events.Scheduled {
		return e.Kind == row.Kind
	}
	return e.Name == row.Name && e.Kind == row.Kind && e.Source == row.Source
}
