package events

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// corpusVariable names the directory of sample events, one a file:
// {"event": …, "wrapped": whether the event has its EventBridge envelope}.
const corpusVariable = "CMKEEPER_EVENT_CORPUS"

// corpusRow is what a reader of the file says that the event is.
type corpusRow struct {
	kind                 Kind
	name                 string
	key, alias           string
	actor                string
	account, region, err string
}

// Recurring values of the corpus, named key<number><Region>.
const (
	key1W  = "arn:aws:kms:us-west-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	key1E  = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	key1E2 = "arn:aws:kms:us-east-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	key1EU = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	key2W  = "arn:aws:kms:us-west-2:111122223333:key/0987dcba-09fe-87dc-65ba-ab0987654321"
	keyMRW = "arn:aws:kms:us-west-2:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab"
	keyMRN = "arn:aws:kms:ap-northeast-1:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab"
	keyWM  = "arn:aws:kms:eu-west-1:111122223333:key/1a2b3c4d-5e6f-1a2b-3c4d-5e6f1a2b3c4d"
	other  = "arn:aws:kms:us-east-1:123456789012:key/" // keys of the older samples

	acct1 = "111122223333"
	acct2 = "123456789012"

	alice1   = "Alice (IAM user in 111122223333)"
	alice2   = "Alice (IAM user in 123456789012)"
	admin    = "Admin/user01 (role session in 111122223333)"
	internal = "AWS Internal"

	viaDynamo  = " via dynamodb.amazonaws.com"
	viaSecrets = " via secretsmanager.amazonaws.com"
)

// corpus was written by reading the files, before there was a parser. Where a
// sample contradicts itself, the comment says which side is taken and why.
var corpus = map[string]corpusRow{
	// The ARN says role, but type and userName say user: a user named example-dev.
	"001-GenerateDataKey-awsdocs.json":          {APICall, "GenerateDataKey", key1W, "alias/project-key", "example-dev (IAM user in 111122223333)", acct1, "us-west-2", ""},
	"002-CancelKeyDeletion-awsdocs.json":        {APICall, "CancelKeyDeletion", key1W, "", alice1, acct1, "us-west-2", ""},
	"003-ConnectCustomKeyStore-awsdocs.json":    {APICall, "ConnectCustomKeyStore", "", "", alice1, acct1, "us-east-1", ""},
	"004-CreateCustomKeyStore-awsdocs.json":     {APICall, "CreateCustomKeyStore", "", "", alice1, acct1, "us-east-1", ""},
	"005-CreateAlias-awsdocs.json":              {APICall, "CreateAlias", key1W, "alias/ExampleAlias", alice1, acct1, "us-west-2", ""},
	"006-CreateGrant-awsdocs.json":              {APICall, "CreateGrant", key1W, "", alice1, acct1, "us-east-1", ""},
	"007-CreateKey-awsdocs.json":                {APICall, "CreateKey", key1W, "", alice1, acct1, "us-west-2", ""},
	"008-CreateKey-awsdocs.json":                {APICall, "CreateKey", key2W, "", alice1, acct1, "us-west-2", ""},
	"009-CreateKey-awsdocs.json":                {APICall, "CreateKey", key1W, "", alice1, acct1, "us-east-1", ""}, // resources name a third account's key; the answer wins
	"010-Decrypt-awsdocs.json":                  {APICall, "Decrypt", key1W, "", alice1, acct1, "us-west-2", ""},
	"011-Decrypt-awsdocs.json":                  {APICall, "Decrypt", key1W, "", alice1, acct1, "us-west-2", ""},
	"012-Decrypt-awsdocs.json":                  {APICall, "Decrypt", key1W, "", alice1, acct1, "us-west-2", "IncorrectKeyException"},
	"013-Decrypt-awsdocs.json":                  {APICall, "Decrypt", key1W, "", alice1, acct1, "us-west-2", ""},
	"014-Decrypt-awsdocs.json":                  {APICall, "Decrypt", key2W, "", alice1, acct1, "us-west-2", ""},
	"015-Decrypt-awsdocs.json":                  {APICall, "Decrypt", key2W, "", alice1, acct1, "us-west-2", "KMSInvalidStateException"},
	"016-DeleteKey-awsdocs.json":                {ServiceEvent, "DeleteKey", key1W, "", internal, acct1, "us-east-1", ""},
	"017-DeleteKey-awsdocs.json":                {ServiceEvent, "DeleteKey", key1W, "", internal, acct1, "us-east-1", ""},
	"018-DeleteCustomKeyStore-awsdocs.json":     {APICall, "DeleteCustomKeyStore", "", "", alice1, acct1, "us-east-1", ""},
	"019-DeleteAlias-awsdocs.json":              {APICall, "DeleteAlias", key1W, "alias/my_alias", alice1, acct1, "us-east-1", ""}, // alias first among the resources, in another Region than the key
	"020-DeleteExpiredKeyMaterial-awsdocs.json": {ServiceEvent, "DeleteExpiredKeyMaterial", key1W, "", internal, acct1, "us-east-1", ""},

	"021-DescribeCustomKeyStores-awsdocs.json":             {APICall, "DescribeCustomKeyStores", "", "", alice1, acct1, "us-east-1", ""},
	"022-DescribeKey-awsdocs.json":                         {APICall, "DescribeKey", key1W, "", alice1, acct1, "us-west-2", ""},
	"023-DisableKeyRotation-awsdocs.json":                  {APICall, "DisableKeyRotation", key1W, "", alice1, acct1, "us-west-2", ""},
	"024-DisableKey-awsdocs.json":                          {APICall, "DisableKey", key1W, "", alice1, acct1, "us-east-1", ""},
	"025-DisconnectCustomKeyStore-awsdocs.json":            {APICall, "DisconnectCustomKeyStore", "", "", alice1, acct1, "us-east-1", ""},
	"027-GenerateDataKeyWithoutPlaintext-awsdocs.json":     {APICall, "GenerateDataKeyWithoutPlaintext", key1W, "alias/aws/ebs", alice1, acct1, "us-east-1", ""},
	"029-CreateGrant-awsdocs.json":                         {APICall, "CreateGrant", key1W, "", alice1, acct1, "us-east-1", ""},
	"030-GenerateDataKeyWithoutPlaintext-awsdocs.json":     {APICall, "GenerateDataKeyWithoutPlaintext", key1W, "alias/aws/ebs", alice1, acct1, "us-east-1", ""},
	"031-Decrypt-awsdocs.json":                             {APICall, "Decrypt", key1W, "", "aws:ec2-infrastructure/i-81e2f56c (role session in 111122223333)", acct1, "us-east-1", ""},
	"032-EnableKey-awsdocs.json":                           {APICall, "EnableKey", key1W, "", alice1, acct1, "us-east-1", ""},
	"033-EnableKeyRotation-awsdocs.json":                   {APICall, "EnableKeyRotation", key1W, "", alice1, acct1, "us-west-2", ""},
	"034-Encrypt-awsdocs.json":                             {APICall, "Encrypt", key1W, "", alice1, acct1, "us-east-1", ""},
	"035-GenerateDataKey-awsdocs.json":                     {APICall, "GenerateDataKey", key1W, "", alice1, acct1, "us-east-1", ""},
	"036-GenerateRandom-awsdocs.json":                      {APICall, "GenerateRandom", "", "", alice1, acct1, "us-east-1", ""},
	"037-GenerateDataKey-awsdocs.json":                     {APICall, "GenerateDataKey", key1W, "", alice1, acct1, "us-east-1", ""},
	"038-GenerateDataKeyPair-awsdocs.json":                 {APICall, "GenerateDataKeyPair", key1W, "", alice1, acct1, "us-west-2", ""},
	"039-GenerateDataKeyPairWithoutPlaintext-awsdocs.json": {APICall, "GenerateDataKeyPairWithoutPlaintext", key1W, "", alice1, acct1, "us-west-2", ""},
	"040-GenerateDataKeyWithoutPlaintext-awsdocs.json":     {APICall, "GenerateDataKeyWithoutPlaintext", key1W, "", alice1, acct1, "us-east-1", "InvalidKeyUsageException"},
	"041-GenerateMac-awsdocs.json":                         {APICall, "GenerateMac", key1W, "", alice1, acct1, "us-east-1", ""},
	"042-GenerateRandom-awsdocs.json":                      {APICall, "GenerateRandom", "", "", alice1, acct1, "us-east-1", ""},
	"043-GetKeyPolicy-awsdocs.json":                        {APICall, "GetKeyPolicy", key1W, "", alice1, acct1, "us-east-1", ""},
	"044-GetParametersForImport-awsdocs.json":              {APICall, "GetParametersForImport", key1W, "", alice1, acct1, "us-west-2", ""},
	"045-ImportKeyMaterial-awsdocs.json":                   {APICall, "ImportKeyMaterial", key1W, "", alice1, acct1, "us-west-2", ""},
	"046-ListAliases-awsdocs.json":                         {APICall, "ListAliases", "", "", alice1, acct1, "us-east-1", ""},
	"047-ListGrants-awsdocs.json":                          {APICall, "ListGrants", key1W, "", alice1, acct1, "us-east-1", ""},
	"048-PutKeyPolicy-awsdocs.json":                        {APICall, "PutKeyPolicy", key1W, "", alice1, acct1, "us-west-2", ""},
	"049-ReEncrypt-awsdocs.json":                           {APICall, "ReEncrypt", key1W, "", alice1, acct1, "us-west-2", ""},    // two keys: source, destination
	"050-ReplicateKey-awsdocs.json":                        {APICall, "ReplicateKey", key1E, "", alice1, acct1, "us-east-1", ""}, // the key that was replicated; its replica is in us-west-2
	"051-RetireGrant-awsdocs.json":                         {APICall, "RetireGrant", key1W, "", alice1, acct1, "us-west-2", ""},
	"052-RevokeGrant-awsdocs.json":                         {APICall, "RevokeGrant", key1W, "", alice1, acct1, "us-west-2", ""},
	"053-RotateKey-awsdocs.json":                           {ServiceEvent, "RotateKey", key1W, "", internal, acct1, "us-west-2", ""},
	"054-ScheduleKeyDeletion-awsdocs.json":                 {APICall, "ScheduleKeyDeletion", key1W, "", alice1, acct1, "us-east-1", ""},
	"055-ScheduleKeyDeletion-awsdocs.json":                 {APICall, "ScheduleKeyDeletion", keyMRW, "", alice1, acct1, "us-west-2", ""},
	"056-ScheduleKeyDeletion-awsdocs.json":                 {APICall, "ScheduleKeyDeletion", key2W, "", alice1, acct1, "us-west-2", ""},
	"057-Sign-awsdocs.json":                                {APICall, "Sign", key2W, "", alice1, acct1, "us-west-2", ""},
	"058-SynchronizeMultiRegionKey-awsdocs.json":           {APICall, "SynchronizeMultiRegionKey", key1W, "", internal, acct1, "us-west-2", ""}, // an AwsApiCall by AWS itself
	"059-TagResource-awsdocs.json":                         {APICall, "TagResource", key1W, "", alice1, acct1, "us-west-2", ""},

	"060-UntagResource-awsdocs.json":        {APICall, "UntagResource", key1W, "", alice1, acct1, "us-west-2", ""},
	"061-UpdateKeyDescription-awsdocs.json": {APICall, "UpdateKeyDescription", key1W, "", alice1, acct1, "us-west-2", ""},
	"062-UpdateCustomKeyStore-awsdocs.json": {APICall, "UpdateCustomKeyStore", "", "", alice1, acct1, "us-east-1", ""},
	"063-UpdatePrimaryRegion-awsdocs.json":  {APICall, "UpdatePrimaryRegion", keyMRW, "", alice1, acct1, "us-west-2", ""},
	"064-UpdatePrimaryRegion-awsdocs.json":  {APICall, "UpdatePrimaryRegion", keyMRN, "", alice1 + " via kms.amazonaws.com", acct1, "ap-northeast-1", ""}, // only the request names a key
	"065-UpdateAlias-awsdocs.json":          {APICall, "UpdateAlias", key1W, "alias/my_alias", alice1, acct1, "us-west-2", ""},
	"066-Verify-awsdocs.json":               {APICall, "Verify", key2W, "", alice1, acct1, "us-west-2", ""},
	"067-VerifyMac-awsdocs.json":            {APICall, "VerifyMac", key1W, "", alice1, acct1, "us-east-1", ""},
	"068-GenerateDataKey-awsdocs.json":      {APICall, "GenerateDataKey", key1W, "", "Admins/example-user (role session in 111122223333) via internal.amazonaws.com", acct1, "us-west-2", ""},
	"069-Decrypt-awsdocs.json":              {APICall, "Decrypt", key1W, "", "Admins/example-user (role session in 111122223333) via internal.amazonaws.com", acct1, "us-west-2", ""},
	"070-DeleteKey-awsdocs.json":            {ServiceEvent, "DeleteKey", key1EU, "", internal, acct1, "eu-west-1", ""},

	"071-KMSCMKRotation-awsdocs.json":                   {Native, "KMS CMK Rotation", key1W, "", "", acct1, "us-west-2", ""},
	"072-KMSImportedKeyMaterialExpiration-awsdocs.json": {Native, "KMS Imported Key Material Expiration", key1W, "", "", acct1, "us-west-2", ""},
	"073-KMSCMKDeletion-awsdocs.json":                   {Native, "KMS CMK Deletion", key1W, "", "", acct1, "us-west-2", ""},

	"074-GenerateDataKey-awsdocs.json":                 {APICall, "GenerateDataKey", key1EU, "", alice1, acct1, "eu-west-1", ""},
	"075-Encrypt-awsdocs.json":                         {APICall, "Encrypt", keyWM, "", "workmail.eu-west-1.amazonaws.com (AWS service)", acct1, "eu-west-1", ""},
	"076-Decrypt-awsdocs.json":                         {APICall, "Decrypt", keyWM, "", "workmail.eu-west-1.amazonaws.com (AWS service)", acct1, "eu-west-1", ""},
	"077-Decrypt-awsdocs.json":                         {APICall, "Decrypt", key1W, "", alice1, acct1, "us-east-1", ""},
	"078-GenerateDataKey-awsdocs.json":                 {APICall, "GenerateDataKey", key1W, "", "dynamodb.amazonaws.com (AWS service)", acct1, "us-west-2", ""},
	"079-Decrypt-awsdocs.json":                         {APICall, "Decrypt", key1W, "", admin + viaDynamo, acct1, "us-west-2", ""},
	"080-CreateGrant-awsdocs.json":                     {APICall, "CreateGrant", key1W, "", admin + viaDynamo, acct1, "us-west-2", ""},
	"081-CreateAlias-awsdocs.json":                     {APICall, "CreateAlias", key1W, "alias/my_alias", alice1, acct1, "us-east-1", ""}, // key and alias in different accounts and Regions; the key's ARN stands
	"082-DescribeKey-awsdocs.json":                     {APICall, "DescribeKey", key1W, "", alice1 + " via signin.amazonaws.com", acct1, "us-east-1", ""},
	"084-GenerateDataKeyWithoutPlaintext-awsdocs.json": {APICall, "GenerateDataKeyWithoutPlaintext", other + "e29ddfd4-1bf6-4e1b-8ecb-08216bd70d07", "alias/aws/ebs", alice2 + " via AWS Internal", acct2, "us-east-1", ""},
	"086-CreateGrant-awsdocs.json":                     {APICall, "CreateGrant", other + "e29ddfd4-1bf6-4e1b-8ecb-08216bd70d07", "", alice2 + " via AWS Internal", acct2, "us-east-1", ""},
	"087-GenerateDataKeyWithoutPlaintext-awsdocs.json": {APICall, "GenerateDataKeyWithoutPlaintext", other + "e29ddfd4-1bf6-4e1b-8ecb-08216bd70d07", "alias/aws/ebs", alice2 + " via AWS Internal", acct2, "us-east-1", ""},
	"088-Decrypt-awsdocs.json":                         {APICall, "Decrypt", other + "e29ddfd4-1bf6-4e1b-8ecb-08216bd70d07", "", "aws:ec2-infrastructure/i-81e2f56c (role session in 123456789012)", acct2, "us-east-1", ""},
	// Samples from before EventBridge call plain calls AwsServiceEvent; so do 101, 113, 118, 169 and 170.
	"089-Encrypt-awsdocs.json":   {ServiceEvent, "Encrypt", key1W, "", alice1, acct1, "us-east-1", ""},
	"090-VerifyMac-awsdocs.json": {APICall, "VerifyMac", key1W, "", "Alice (IAM user in &ExampleAWSAccountNo1;)", acct1, "us-east-1", ""}, // an unexpanded entity in the documentation: shown as it is
	"091-DeleteKey-awsdocs.json": {ServiceEvent, "DeleteKey", key1EU, "", internal, acct1, "eu-west-1", ""},
	"092-DeleteKey-awsdocs.json": {ServiceEvent, "DeleteKey", key1W, "", internal, acct1, "us-east-1", ""},
	"093-DeleteKey-awsdocs.json": {ServiceEvent, "DeleteKey", key1W, "", internal, acct1, "us-east-1", ""},

	"094-ReplicateKey-awsdocs.json": {APICall, "ReplicateKey", key1E, "", alice1, acct1, "us-east-1", ""},
	"095-CMKDeletion-awsdocs.json":  {Native, "CMK Deletion", key1W, "", "", acct1, "us-west-2", ""}, // a name of 2016
	// 096, 097, 171 and 172 say IAMUser, but the ARN is a role session's, and there is no userName.
	"096-GenerateDataKey-awsdocs.json":                 {APICall, "GenerateDataKey", key1W, "", admin + viaSecrets, acct1, "us-west-2", ""},
	"097-Decrypt-awsdocs.json":                         {APICall, "Decrypt", key1W, "", admin + viaSecrets, acct1, "us-west-2", ""},
	"098-CMKRotation-awsdocs.json":                     {Native, "CMK Rotation", key1W, "", "", acct1, "us-west-2", ""},
	"099-ScheduleKeyDeletion-awsdocs.json":             {APICall, "ScheduleKeyDeletion", key1W, "", alice1, acct1, "us-east-1", ""},
	"100-Decrypt-awsdocs.json":                         {APICall, "Decrypt", key1W, "", alice1, acct1, "us-west-2", ""},
	"101-Encrypt-awsdocs.json":                         {ServiceEvent, "Encrypt", key1W, "", alice1, acct1, "us-east-1", ""},
	"102-GenerateDataKey-awsdocs.json":                 {APICall, "GenerateDataKey", key1W, "", alice1, acct1, "us-east-1", ""},
	"103-GenerateDataKeyWithoutPlaintext-awsdocs.json": {APICall, "GenerateDataKeyWithoutPlaintext", key1W, "", alice1, acct1, "us-east-1", "InvalidKeyUsageException"},
	"104-ReEncrypt-awsdocs.json":                       {APICall, "ReEncrypt", key1W, "", alice1, acct1, "us-west-2", ""},
	"105-CreateAlias-awsdocs.json":                     {APICall, "CreateAlias", other + "64e07f97-2489-4d04-bfdf-41723ad130bd", "alias/my_alias", alice2, acct2, "us-east-1", ""},
	"106-CreateGrant-awsdocs.json":                     {APICall, "CreateGrant", other + "65f61d18-c45c-41ca-90c9-179982e9b716", "", alice2, acct2, "us-east-1", ""},
	"107-CreateKey-awsdocs.json":                       {APICall, "CreateKey", other + "06dc80ca-1bdc-4d0b-be5b-b7009cd14f13", "", alice2, acct2, "us-east-1", ""},
	"108-Decrypt-awsdocs.json":                         {APICall, "Decrypt", other + "e17cebae-e7a6-4864-b92f-0365f2feff38", "", alice2, acct2, "us-east-1", "InvalidCiphertextException"},
	"109-DeleteAlias-awsdocs.json":                     {APICall, "DeleteAlias", other + "64e07f97-2489-4d04-bfdf-41723ad130bd", "alias/my_alias", alice2, acct2, "us-east-1", ""},
	"110-DescribeKey-awsdocs.json":                     {APICall, "DescribeKey", other + "30a9a1e7-2a84-459d-9c61-04cbeaebab95", "", alice2 + " via signin.amazonaws.com", acct2, "us-east-1", ""},
	"111-DisableKey-awsdocs.json":                      {APICall, "DisableKey", other + "262d9fcb-f1a0-4447-af16-3714cff61ec1", "", alice2, acct2, "us-east-1", ""},
	"112-EnableKey-awsdocs.json":                       {APICall, "EnableKey", other + "e17cebae-e7a6-4864-b92f-0365f2feff38", "", alice2, acct2, "us-east-1", ""},
	"113-Encrypt-awsdocs.json":                         {ServiceEvent, "Encrypt", "arn:aws:kms:us-east-1:012345678901:key/8d3acf57-6bba-480a-9459-ed1b8e79d3d0", "", alice2, "012345678901", "us-east-1", ""}, // the key owner's copy of another account's call
	"114-GenerateDataKey-awsdocs.json":                 {APICall, "GenerateDataKey", other + "637e8678-3d08-4922-a650-e77eb1591db5", "", alice2, acct2, "us-east-1", ""},
	"115-GenerateDataKeyWithoutPlaintext-awsdocs.json": {APICall, "GenerateDataKeyWithoutPlaintext", other + "d4f2a88d-5f9c-4807-b71d-4d0ee5225156", "", alice2, acct2, "us-east-1", "InvalidKeyUsageException"},
	"116-GetKeyPolicy-awsdocs.json":                    {APICall, "GetKeyPolicy", other + "e923fe55-d3ef-4f9c-89a1-2752f98c3a70", "", alice2, acct2, "us-east-1", ""},
	"117-ListGrants-awsdocs.json":                      {APICall, "ListGrants", other + "ea22a751-e707-40d0-92ac-13a28fa9eb11", "", alice2, acct2, "us-east-1", ""},
	"118-ReEncrypt-awsdocs.json":                       {ServiceEvent, "ReEncrypt", other + "ff0c0fc1-cbaa-41ab-a267-69481da8a4c8", "", alice2, acct2, "us-east-1", ""},
	"119-GenerateDataKey-awsdocs.json":                 {APICall, "GenerateDataKey", key1EU, "", alice1, acct1, "eu-west-1", ""},

	"120-UpdateAlias-awsdocs-2025.json":               {APICall, "UpdateAlias", key1W, "alias/my_alias", alice1, acct1, "us-west-2", ""},
	"121-DisableKey-awsdocs-2025.json":                {APICall, "DisableKey", key1W, "", alice1, acct1, "us-east-1", ""},
	"122-EnableKey-awsdocs-2025.json":                 {APICall, "EnableKey", key1W, "", alice1, acct1, "us-east-1", ""},
	"123-DeleteAlias-awsdocs-2025.json":               {APICall, "DeleteAlias", key1W, "alias/my_alias", alice1, acct1, "us-east-1", ""},
	"124-CreateAlias-awsdocs-2025.json":               {APICall, "CreateAlias", key1W, "alias/ExampleAlias", alice1, acct1, "us-west-2", ""},
	"125-EnableKeyRotation-awsdocs-2025.json":         {APICall, "EnableKeyRotation", key1W, "", alice1, acct1, "us-west-2", ""},
	"126-CreateGrant-awsdocs-2025.json":               {APICall, "CreateGrant", key1W, "", alice1, acct1, "us-east-1", ""},
	"127-ImportKeyMaterial-awsdocs-2025.json":         {APICall, "ImportKeyMaterial", key1W, "", alice1, acct1, "us-west-2", ""},
	"128-DeleteImportedKeyMaterial-awsdocs-2025.json": {APICall, "DeleteImportedKeyMaterial", key1W, "", alice1, acct1, "us-west-2", ""},
	"129-DeleteExpiredKeyMaterial-awsdocs-2025.json":  {ServiceEvent, "DeleteExpiredKeyMaterial", key1W, "", internal, acct1, "us-east-1", ""},
	"130-RotateKey-awsdocs-2025.json":                 {ServiceEvent, "RotateKey", key1W, "", internal, acct1, "us-west-2", ""},
	"131-RotateKey-awsdocs-2025.json":                 {ServiceEvent, "RotateKey", key1W, "", internal, acct1, "us-west-2", ""},
	"132-RotateKeyOnDemand-awsdocs-2025.json":         {APICall, "RotateKeyOnDemand", key1W, "", alice1, acct1, "us-east-1", ""}, // the answer has a bare id, so the resource's ARN counts
	"133-GetKeyRotationStatus-awsdocs-2025.json":      {APICall, "GetKeyRotationStatus", key1W, "", alice1, acct1, "us-east-1", ""},
	"134-ListKeyRotations-awsdocs-2025.json":          {APICall, "ListKeyRotations", key1W, "", alice1, acct1, "us-east-1", ""},
	"135-GetKeyLastUsage-awsdocs-2025.json":           {APICall, "GetKeyLastUsage", key1W, "", alice1, acct1, "us-east-1", ""},
	// The answers of 136 and 137 name another key than their requests: the answer wins, as everywhere.
	"136-UpdatePrimaryRegion-awsdocs-2025.json":              {APICall, "UpdatePrimaryRegion", key1W, "", alice1, acct1, "us-west-2", ""},
	"137-UpdatePrimaryRegion-awsdocs-2025.json":              {APICall, "UpdatePrimaryRegion", key1W, "", alice1 + " via kms.amazonaws.com", acct1, "ap-northeast-1", ""},
	"138-DeleteKey-awsdocs-2025.json":                        {ServiceEvent, "DeleteKey", key1W, "", internal, acct1, "us-east-1", ""},
	"139-Decrypt-awsdocs-2025.json":                          {APICall, "Decrypt", key1W, "", alice1, acct1, "us-west-2", ""},
	"140-Decrypt-awsdocs-2025.json":                          {APICall, "Decrypt", key1W, "", alice1, acct1, "us-west-2", ""},
	"141-Decrypt-awsdocs-2025.json":                          {APICall, "Decrypt", key1W, "", alice1, acct1, "us-west-2", ""},
	"142-KMSCMKRotation-awsdocs-2025.json":                   {Native, "KMS CMK Rotation", key1W, "", "", acct1, "us-west-2", ""},
	"143-KMSImportedKeyMaterialExpiration-awsdocs-2025.json": {Native, "KMS Imported Key Material Expiration", key1W, "", "", acct1, "us-west-2", ""},
	"144-KMSCMKDeletion-awsdocs-2025.json":                   {Native, "KMS CMK Deletion", key1W, "", "", acct1, "us-west-2", ""},

	"169-Encrypt-awsdocs.json":              {ServiceEvent, "Encrypt", other + "87654321-4321-4321-4321-210987654321", "alias/aws/acm", "acm (IAM user in 111122223333)", acct2, "us-east-1", ""}, // the alias is named by its ARN
	"170-Decrypt-awsdocs.json":              {ServiceEvent, "Decrypt", other + "12345678-1234-1234-1234-123456789012", "", "DecryptACMCertificate/1aba0dc8b3a728d6998c234a99178eff (role session in 111122223333)", acct2, "us-east-1", ""},
	"171-GenerateDataKey-awsdocs.json":      {APICall, "GenerateDataKey", key1E2, "", admin + viaSecrets, acct1, "us-east-2", ""},
	"172-Decrypt-awsdocs.json":              {APICall, "Decrypt", key1E2, "", admin + viaSecrets, acct1, "us-east-2", ""},
	"173-RotateKey-awsdocs.json":            {ServiceEvent, "RotateKey", "arn:aws:kms:us-east-2:123456789012:key/7944f0ec-EXAMPLE", "", internal, acct2, "us-east-2", ""},
	"174-GenerateDataKey-awsdocs.json":      {APICall, "GenerateDataKey", "", "", "dynamodb.amazonaws.com (AWS service)", acct1, "us-west-2", ""}, // 174 to 176: every key is the empty string
	"175-Decrypt-awsdocs.json":              {APICall, "Decrypt", "", "", admin + viaDynamo, acct1, "us-west-2", ""},
	"176-CreateGrant-awsdocs.json":          {APICall, "CreateGrant", "", "", admin + viaDynamo, acct1, "us-west-2", ""},
	"217-RotateKeyOnDemand-awsdocs-cn.json": {APICall, "RotateKeyOnDemand", key1W, "", alice1, acct1, "us-east-1", ""}, // from the Chinese guide, yet in the aws partition
}

func TestParseCorpus(t *testing.T) {
	dir := os.Getenv(corpusVariable)
	if dir == "" {
		t.Skipf("%s is not set: the corpus is kept outside of the repository", corpusVariable)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != len(corpus) {
		t.Errorf("%d files in the corpus, %d rows in the table", len(files), len(corpus))
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var sample struct {
				Event json.RawMessage `json:"event"`
			}
			if err := json.Unmarshal(data, &sample); err != nil {
				t.Fatal(err)
			}
			want, ok := corpus[filepath.Base(file)]
			if !ok {
				t.Fatal("the table has no row for this file")
			}
			e, err := Parse(sample.Event)
			if err != nil {
				t.Fatal(err)
			}
			got := corpusRow{e.Kind, e.Name, e.KeyARN, e.Alias, e.Actor.String(), e.Account, e.Region, e.ErrorCode}
			if diff := cmp.Diff(want, got, cmp.AllowUnexported(corpusRow{})); diff != "" {
				t.Errorf("parsed event (-want +got):\n%s", diff)
			}
			if !e.IsKMS() {
				t.Errorf("source is %q", e.Source)
			}
			if e.Failed() != (want.err != "") {
				t.Errorf("Failed() = %v", e.Failed())
			}
		})
	}
}

// faultsVariable names a directory of inputs that were once judged wrongly.
const faultsVariable = "CMKEEPER_FAULT_CORPUS"

// TestFaultOfAddendum: a record and CloudTrail's addendum to it are one occurrence.
func TestFaultOfAddendum(t *testing.T) {
	dir := os.Getenv(faultsVariable)
	if dir == "" {
		t.Skipf("%s is not set: the faults are kept outside of the repository", faultsVariable)
	}
	data, err := os.ReadFile(filepath.Join(dir, "13-event-addendum.json"))
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string]int{}
	for line := range bytes.Lines(data) {
		e, err := Parse(line)
		if err != nil {
			t.Fatal(err)
		}
		ids[e.ID]++
	}
	if diff := cmp.Diff(map[string]int{"e-3": 2}, ids); diff != "" {
		t.Errorf("occurrences (-want +got):\n%s", diff)
	}
}
