"""Find phrases, in English and Chinese, which reveal that the writer of a text knew the ground truth.

Words that inspectors need (label, mask, overlay, box, hint, 标注, 标签) are leaks only in a revealing context.
"""

import re
import unicodedata

from cot_builder.inspection.names import category_name, spell_out

_TRUTH = (
    r"(?:anomal\w*|abnormal\w*|normal|defect\w*|non ?defect\w*|flaw\w*|fault\w*|good|bad|ok|ng|faulty|yes|no|positive|negative"
    r"|damage\w*|scratch\w*|crack\w*|dent\w*|hole|stain|contaminat\w*|broken|missing|scrap|reject)"
)
_THING = (
    r"(?:image|sample|photo(?:graph)?|picture|example|instance|case|specimen|query|crop|item|piece|object|product|part)"
)
_SHOT = r"(?:image|sample|photo(?:graph)?|picture|example|instance|case|query)"
_PLACE = r"(?:region|area|location|position|spot|zone|place|pixels?|extent|coordinates?|points?(?! of)|box(?:es)?|bbox(?:es)?)"
_FAULT = r"(?:defect\w*|anomal\w*|flaw\w*|fault\w*|damage\w*|scratch\w*|crack\w*|dent\w*|hole|stain)"
_COLOUR = r"(?:red|green|blue|yellow|orange|magenta|cyan|purple|white|colou?red|dashed|dotted)"
_SAYS = (
    r"(?:says?|said|states?|stated|tells?|told|indicat\w+|confirm\w*|specif\w+|claims?|reports?|suggests?|implies|describes?"
    r"|shows?|marks?|gives?|reads?|identif\w+|classif\w+|names?|points?|reveals?)"
)
_NEAR = r"[^.!?;。]{0,%d}?"
_ACCORDING = (
    r"(?:according to|as per|per|based on|consistent with|agrees? with|agreeing with|in line with|in agreement with|in accordance with"
    r"|given|knowing|trusting|using|following|from|match(?:es|ing)?|thanks to|relying on)"
)

_ENGLISH = {
    "truth": (
        r"\bground ?truths?\b"
        r"|\bgt (?:box(?:es)?|bbox|mask|label|annotation|region|area|class|type|says|shows|marks)\b|\b(?:the|per|to|by|with) gt\b"
        r"|\bthe truth\b|\btruth (?:box|mask|label|value|region)|\boracle\b|\bgold(?:en)? (?:standard|answer|label|annotation)"
        r"|\b(?:true|actual|real|correct) (?:label|class|mask|bounding ?box(?:es)?|bbox|defect type|defect class)\b"
    ),
    "annotation": (
        r"\b(?:un)?annotat(?:ed|es|ing|ors?)\b"
        r"|(?<!engraved )(?<!printed )(?<!stamped )(?<!etched )(?<!moulded )(?<!embossed )(?<!handwritten )\bannotat(?:e|ions?)\b"
        r"(?! (?:ring|engraving|engraved|groove|plate|printed|stamped|etched|moulded|lettering))"
    ),
    "label of the sample": (
        r"\b(?:image|sample|class|truth|training|defect|defect type|anomaly|pixel|supervision|category|gt|true|given|provided|supplied"
        r"|assigned|known|private|hidden|secret|reference|target|binary|segmentation|teacher|annotation|weak|noisy|soft) labels?\b"
        rf"|\blabels? (?:of|for|on|attached to|assigned to|given (?:to|for)|accompanying|that comes with) (?:this|the|my|our|each) {_SHOT}\b"
        r"|\blabels? (?:of|for) (?:this|the) (?:part|item|piece|object|product) (?:is|was|says|reads)\b"
        r"|\b(?:according to|as per|per|based on|consistent with|agree\w* with|in line with|in accordance with|trust\w*|relying on|told by|confirmed by"
        r"|indicated by|given by|provided by|know\w* from|know\w* by) (?:the |its |this |my )?labels?\b"
        rf"|\b(?:as|since|because) (?:the|its|this|my) labels? {_SAYS}\b(?! (?:signs|scratches|creases|wrinkles|a|an|some|no)\b)"
        r"|\bas labell?ed\b|\b(?:given|knowing) (?:the|its|this) labels?(?=[,.;:]|$)"
        rf"|\blabels? ?[:=] ?{_TRUTH}\b|\blabels? (?:of )?(?:anomal\w+|abnormal|defective)\b"
        r"|\blabels? (?:\w+ly |also |already |here )?(?:says?|said|states?|stated|indicates?|indicated|tells?|told|specif\w+|claims?|calls?|classif\w+"
        rf"|identif\w+|suggests?|impl(?:y|ies)|asserts?|declares?|describes?|gives?|marks?|flags?)\b{_NEAR % 60}\b{_TRUTH}\b"
        rf"|\blabels? (?:shows?|reads?|has|puts?|lists?|records?) (?:that )?(?:it|this|the {_THING}) (?:is|as|to be|has)\b"
        rf"|\blabels? (?:confirms?|corroborates?|supports?|agrees?|verif\w+|contradicts?) (?:that|this|it|my|the|with)\b"
        r"|\blabels? (?:tells?|told|informs?|informed|lets?) (?:me|us)\b|\blabels? gives? (?:it|this) away"
        r"|\blabels? (?:is|was|are|being|=|:|reads?) ?(?:an? )?(?:anomal\w+|abnormal|normal|defective|good|bad|positive|negative|yes|no|1|0)\b"
        r"|\b(?:even )?without (?:\w+ing )(?:at )?the labels?\b|\beven without (?:the|a) labels?\b"
        r"|\blabel (?:noise|error|file|map|column|field|data|information)\b|\blabell?ing (?:team|guidelines?|process|protocol|noise|says)\b"
    ),
    "labelled": (
        rf"\b(?:pre )?labell?ed (?:as )?(?:an? |the |being )?{_TRUTH}\b"
        r"|\blabell?ed as\b(?! (?-i:[A-Z0-9]))"
        rf"|\b(?:the|this|a|each) labell?ed (?:{_PLACE}|{_SHOT}|{_FAULT}|class|type|data)\b"
        rf"|\b{_SHOT} (?:that )?(?:is|was|were|are|has been|have been|had been|being)? ?(?:mis)?labell?ed\b|\bmislabell?ed {_SHOT}\b|\bpre labell?ed\b"
        r"|\b(?:the|human|expert) labell?ers?\b"
    ),
    "mask": (
        r"\b(?:segmentation|anomaly|defect|pixel|binary|truth|given|provided|supplied|annotation|reference|private|hidden|true|target|supervision|outlined|drawn|overlaid) masks?\b|\bmasks? (?:shows?|indicates?|tells?|marks?) (?:where|that|the (?:defect|anomaly|flaw))\b"
        r"|\b(?:the|this|that|its) masks? (?:covers?|shows?|marks?|indicates?|says|highlights?|confirms?|outlines?|delineates?|tells?|points?|locates?"
        r"|encloses?|contains?|reveals?|corresponds?|is (?:not |non )?(?:empty|blank|given|provided))\b"
        r"|\b(?:according to|as per|per|based on|from|consistent with|match(?:es|ing)?|inside|within|outside|(?:marked|given|indicated|confirmed|shown|outlined"
        r"|located|highlighted|provided) (?:by|in)) (?:the|its|this|a) masks?\b(?! of (?:solder|paint|lacquer|resist|dust))"
        rf"|\b{_PLACE} (?:of|in|inside|within|from|covered by) the mask\b(?! of (?:solder|paint|lacquer|resist|dust))"
        rf"|\bmasked (?:{_PLACE}|section|part)\b|\bthe mask's (?:area|cent\w+|extent|outline|boundary|location)\b"
        r"|(?<!solder )(?<!paint )\bmask (?:region|area|pixels|boundary|outline|extent)\b|\bmask (?:image|file|provided|supplied|given|annotation|i was|i have)\b"
    ),
    "overlay": (
        rf"\b(?:{_COLOUR}|highlighted|semi ?transparent|translucent|anomaly|defect|mask|given|provided|image|heat ?map|drawn|bright) overlays?\b|\b(?:anomaly|saliency) ?maps?\b"
        r"|\bthe overlays?\b(?! (?:film|foil|sheet|layer|panel|fabric|stitch\w*|thread|decal|the hem|of (?:the )?(?:film|foil|fabric|thread|cloth|tape)))"
        rf"|\boverlays? (?:drawn|shown|marks?|indicates?|highlights?|on the (?:{_SHOT}))\b"
        rf"|\boverlaid (?:on the {_SHOT}|in {_COLOUR}|(?:{_COLOUR} )?(?:box|mask|contour|rectangle|outline|heat ?map))"
    ),
    "drawn marks": (
        rf"\b{_COLOUR} (?:bounding ?)?(?:box(?:es)?|rectangles?|contours?|outlines?|circles?|polygons?|arrows?|mark(?:er|ing)s?) "
        rf"(?:is |was |has been )?(?:drawn|that marks|marks|marking|surround\w*|enclos\w*|highlight\w*|indicat\w*|pointing|points|shows where"
        rf"|(?:in|on) the {_SHOT}|around the (?:{_FAULT}|{_PLACE}))\b"
        rf"|\b(?:highlighted|circled|boxed|shaded) in {_COLOUR}\b|\b(?:inside|within) the {_COLOUR} (?:contour|outline|rectangle|bounding ?box)\b"
        r"|\bdrawn (?:bounding ?)?(?:box(?:es)?|rectangle|contour|circle|polygon|outline)\b"
        r"|\b(?:box|rectangle|contour|circle|polygon|outline) (?:that |which )?(?:is |was |has been )?drawn\b"
        rf"|\b(?:{_PLACE}|{_FAULT})\b{_NEAR % 15}\b(?:marked|outlined|drawn|shown|framed) in {_COLOUR}\b"
        rf"|\b(?:marked|outlined|boxed|circled|pre ?marked|pre ?selected) {_PLACE}\b"
        rf"|\b(?:marked|outlined|circled|highlighted|drawn|pointed|singled|flagged) (?:out |up )?(?:for (?:me|us)|beforehand|in advance)\b"
        r"|\bmarked (?:as )?(?:anomalous|defective|faulty|bad|abnormal|normal)\b"
        rf"|\bhighlighted {_PLACE}\b(?! (?:in|of|by|on) the (?:residual|edge|map|enhanced|equalis\w+|crop))"
        rf"|\bhighlighted in the (?:{_SHOT})\b|\balready (?:marked|outlined|circled|highlighted|flagged)\b"
        rf"|\b(?:was|were|been) (?:pre ?)?(?:marked|tagged|flagged|recorded|listed|registered|catalogued|classified) as (?:an? )?{_TRUTH}\b"
        rf"|\b(?:tagged|recorded|listed|registered|catalogued|pre ?classified|filed) as (?:an? )?{_TRUTH}\b"
    ),
    "supervision": r"\b(?:un|weakly |semi |self )?supervis\w*",
    "told": (
        r"\bas (?:i was |i am |we were )?(?:instructed|told|directed|given|informed|hinted|briefed|provided|supplied|notified|annotated|disclosed)\b(?! the)"
        r"|\bas (?:stated|specified|noted|described|requested|required|mentioned|indicated|said) (?:in|by) (?:the |my )?(?:prompt|task|instructions?|brief|user|notes?|query|metadata)\b"
        r"|\b(?:i|we)(?: was| were| am| are| have been| had been|'m|'ve been|'d been|'re) (?:\w+ly |also |already |just |not |never |being )?"
        r"(?:told|given(?! pause)|informed|instructed|provided|supplied|supposed|shown|handed|required|expected|advised|briefed|allowed|forbidden|warned|permitted"
        r"|tipped|prompted|directed|notified|tasked|meant|asked to (?:write|describe|produce|explain|justify|output|answer|pretend|hide|conclude|say|report))\b"
        r"|\b(?:having been|been|being|was|were) (?:told|informed|instructed|briefed|notified|tipped off|given the)\b"
        r"|\b(?:told|given|handed|supplied|provided|shown|revealed|disclosed|communicated|shared|passed) (?:to |with |on to )?(?:me|us)\b"
        r"|\b(?:indicated|pointed out|known|described|specified|reported) (?:to (?:me|us)|(?:in|by) the (?:task|prompt|brief|question|query|instructions?))\b"
        r"|\b(?:i|we)(?: have| had|'ve|'d)?(?: already)? received\b|\bthe \w+ (?:provided|supplied) (?:says|mentions|shows|states|indicates|marks|points)\b"
        r"|\baccording to (?:the |my |this |our )?(?:records?|notes?|caption|report|brief\w*|task|query|question|information|info|key|reference|answer|teacher|experts?|user|prompt|source)\b"
        r"|\b(?:records?|reference|notes?|caption|report|answer key) (?:says?|states?|tells?|indicates?|confirms?|mentions?|lists?)\b"
        r"|\b(?:need|have|asked|required|want|try|trying|must|task is|job is) (?:to )?(?:now )?(?:justify|rationali[sz]e|explain) (?:the|why|this|a|my|that) (?:verdict|answer|label|yes|no|conclusion|it is|it's|this is|finding)\b"
        r"|\b(?:box(?:es)?|bbox(?:es)?|coordinates?|answer|verdict|label|class|finding|location|defect type|type|information|region|details) "
        r"(?:that |which )?(?:is |are |was |were |has been |have been |had been |i (?:was|am|have been|had been) |we were )?(?:already )?(?:provided|supplied|given|told)\b(?! with)"
        r"|\b(?:someone|they|he|she|you|user|system|operator|task|prompt|question) (?:has |have |had )?(?:already )?(?:told|informed|gave|given|provided) (?:me|us)\b"
        r"|\byou (?:said|told|say|tell|mentioned|gave|asked|want)\b|\bi am to (?:find|describe|report|explain|say|answer)\b"
        r"|\b(?:input|context|json|rules?|brief|briefing|background|query) (?:given |provided )?(?:says?|states?|tells?|mentions?|gives?|asks?|forbids?|lists?|indicates?)\b"
        r"|\b(?:forbids?|forbade|forbidden|prohibits?) (?:me|us|to)\b|\b(?:asks?|asked|tells?|instructs?|wants?) (?:me|us) not to\b"
        r"|\bnot(?:hing)? supposed to know\b|\bprivileged\b|\binside(?:r)? (?:knowledge|information)\b"
    ),
    "given": (
        rf"\b(?:given|provided|supplied|indicated|pre ?defined|pre ?determined|stated|disclosed) "
        rf"(?:\w+ )?(?:{_PLACE}|answer|type|verdict|class|truth|information|info|finding|details?|data|polygon|contour|context|description|input|defects?|anomal(?:y|ies)|hints?|meta ?data|conclusion"
        r"|diagnosis|category|instructions?|constraints?|facts?|status|solution|outcome)\b"
        rf"|\b(?:pre ?determined|pre ?specified|specified|designated|target) (?:bounding ?)?(?:box(?:es)?|bbox(?:es)?|coordinates?|answer|verdict|class|{_FAULT} ?(?:type|region|area)?)\b"
        r"|\bbounding ?box(?:es)? (?:\w+ly |already )?(?:is|are|was|were|has been)? ?(?:given|provided|supplied|known|tells?|says?|indicates?|confirms?|marks?|shows?|points?|highlights?|surrounds?|covers?)\b"
        r"|\b(?:inside|within|in|from|according to|per|based on|by|match(?:es|ing)?|consistent with) the bounding ?box(?:es)?\b"
        r"|\b(?:the|these|those) coordinates (?:tell|say|confirm|indicate|point|provided|supplied|are known|were known)\b"
        r"|\bthe box (?:tells|says|confirms|indicates|marks|points)\b|\b(?:from|per|by|use|using|match(?:es|ing)?) the box coordinates\b"
        r"|\bthe finding (?:for|says|states|tells|given|i|mentions|names|is that|indicates|confirms)\b|\bverified (?:finding|truth|answer|defect|verdict|type|location)\b"
        r"|\b(?:recorded|reported|documented|stated|alleged|official) (?:defect|anomaly|location|type|box|verdict|finding|position)\b|\b(?:recorded|documented|reported) " + _FAULT + r"\b|\breference (?:bounding ?)?box\b"
    ),
    "known beforehand": (
        rf"\b(?:already |to be )?known (?:to be|to have|to contain|as|to show|to carry) (?:an? |the )?(?:\w+ )?{_TRUTH}\b"
        r"|\bknown (?:location|type|class|region|label|box|coordinates|defects?|defective|anomal\w+|flaws?|faults?|faulty|damage|answers?|verdict|truth|location of|result|issue|bad|outcome|finding)\b"
        r"|\b(?:i|we) (?:already (?:know|knew)|(?:know|knew) (?:in advance|beforehand|already|ahead|a priori|the (?:answer|truth|verdict|defect|type|location|outcome|result)))"
        rf"|\b(?:i|we) (?:do )?(?:know|knew) (?:that )?(?:it|this|there|the {_THING}|this {_THING})(?: (?:is|was|are|has|contains|must be))? {_NEAR % 15}\b{_TRUTH}\b"
        rf"|\b(?:knowing|aware) (?:of |that )*{_NEAR % 25}\b{_TRUTH}\b|\b(?:because|since|as) this is an? (?:known )?(?:anomalous|abnormal|defective|faulty|bad|normal) {_THING}\b"
        r"|\b(?:know|knew|known) (?:this |it )?from the (?:start|outset|beginning)\b|\bas (?:we|i) (?:all |already )?know\b|\bhow (?:i|we) (?:came to |come to )?(?:know|knew)\b"
        rf"|\b(?:since|because|as) (?:it|this|the {_THING}|this {_THING}) (?:is|was) (?:already )?(?:known|confirmed|established|recorded|documented) "
    ),
    "answer": (
        r"\b(?:expected|desired|required|intended|reference|correct|right|real|actual|known|target|model|official|true|pre ?determined|supposed|prescribed|suggested) (?:final )?(?:answers?|verdicts?|response|labels|annotations?)\b"
        r"|\b(?:expected|desired|required|reference) (?:output|conclusion|solution)\b|\bexpected label is\b|\banswer (?:key|sheet)\b|\boutput format\b"
        r"|\bthe answer (?:is|was|has been) (?:already )?(?:known|given|provided|supplied|supposed|expected|fixed|required|specified)\b"
        r"|\b(?:must|supposed to|required to|expected to|told to|asked to|forced to) (?:answer|output|respond|reply|say|conclude)(?: with)? \W?(?:yes|no|anomal\w+|normal|defective)\b"
    ),
    "hint": (
        r"\b(?:the|that|your|my|provided|given|supplied|following|user's|private) hints?\b(?! of\b)|\bhinted (?:to me|at in the|in the (?:prompt|task)|that i)\b"
        r"|\b(?:was|were|been) hinted\b|\b(?:clues?|tips?) (?:i was given|given to me|provided|supplied|in the prompt)\b"
    ),
    "secret": (
        r"\b(?:must|should|may|can|am|shall|do|will|could|would|need|ought|allowed|supposed|permitted|told|asked|careful|instructed|important)(?: ?not|n't) (?:to )?"
        r"(?:be )?(?:reveal\w*|disclos\w*|mention\w*|expose|betray|admit|leak|hint|refer to|let on|let it slip|give away|acknowledge|cite|quote|say (?:that|how|where|why))\b"
        r"|\b(?:without|avoid|avoiding|never|rather than) (?:revealing|disclosing|reveal|disclose|mentioning|mention|referring to|betraying|leaking|admitting|citing|giving away|letting on)\b"
        r"|\b(?:private|secret|confidential|privileged|undisclosed) (?:information|info|knowledge|finding|notes?|truth|context|instructions?|data|details?|hints?|facts?|guidance|verdict|message)\b"
        r"|\bhidden (?:information|info|knowledge|truth|instructions?|context|answer|verdict|finding)\b"
        r"|\bpretend\w*\b|\b(?:as if|as though) i (?:did not|didn't|do not|don't|had not|hadn't) know\b|\bact(?:ing)? as (?:if|though)\b|\b(?:look|seem|appear) (?:like|as if|as though) i (?:found|discovered|noticed|saw)\b"
        r"|\b(?:keep (?:quiet|silent)|say nothing) about\b|\bavoid (?:any |all )?(?:mention|reference)\b"
        r"|\bkeep (?:this|it|that) (?:secret|hidden|private|to myself)\b|\bfor (?:me|my eyes) (?:alone|only)\b"
        r"|\b(?:the )?(?:apprentice|student|teacher|grader|judge)s? (?:must|should|may|will|cannot|can|does|never|is|model|who|sees)\b"
        r"|\bfor (?:the |an )?(?:apprentices?|students?|graders?)\b"
    ),
    "prompt": (
        r"\b(?:the|this|system|user|teacher|private|initial|original|your|above|my|user's) prompts?\b(?! (?:me|a|an|us|further|closer|another|repair|removal|attention)\b)"
        r"|\b(?:my|your|these|given|provided|task|system|private|original|user) instructions?\b|\bthe instructions?\b(?! (?:leaflet|printed|booklet|sheet|manual|on the|text|label))"
        r"|\b(?:following|follow|obey\w*|violat\w+|according to|as per|per|under) instructions?\b|\binstructed to\b"
        r"|\bthe user (?:wants?|asks?|asked|says?|said|told|provided|gave|expects?|requested|requests|mention\w*|states?|stated|already|has|claims?|confirm\w*)\b"
        r"|\bas an? (?:ai|language model|assistant|model)\b|\blanguage models?\b|\bai (?:model|assistant)\b|\bchain of thought\b|\bsystem message\b"
        r"|\btask (?:says|states|description|tells|statement|requires|instructs|gives|specifies|definition)\b|\bproblem statement\b"
        r"|\b(?:question|query|brief|briefing) (?:implies|presupposes|tells|states|says|already|gives|mentions|confirms|reveals)\b"
        r"|(?<!mechanical )(?<!space )(?<!geometric )(?<!assembly )(?<!\ba )\bconstraints?\b|\b(?:the|annotation|task) guidelines? (?:say|state|require|tell)\w*\b"
    ),
    "files and data": (
        r"\bfile ?(?:names?|paths?)\b|\b(?:image|file|data|parent|source|test|train|the) (?:sub ?)?(?:folder|directory)\b|\b(?:folder|directory) name\b|\b(?:path|folder|directory) (?:contains|says|is (?:called|named)|includes|names)\b"
        r"|\w\.(?:png|jpe?g|bmp|tiff?|json|csv|npy|txt)\b|\bimage(?:'s)? (?:id|name|path)\b|\bfile(?:'s)? (?:title|name)\b|\bjson\b|\b(?:the|this) file (?:is|was|says|suggests|called|named|itself)\b|\bexif\b"
        r"|\bdata ?sets?\b|\bdata ?base\b|\bmeta ?data\b|\bbenchmarks?\b(?! of)|\b(?:training|test|validation|train) (?:set|split|data|fold|examples?|distribution|images)\b"
        r"|\b(?:anomalous|anomaly|abnormal|normal|defective|good|bad) (?:class|category|split|subset)\b|\b(?:anomalous|anomaly) (?:test )?(?:images?|samples?)\b"
        r"|\bmvtec\b|\breal ?iad\b|\bmpdd\b|\bbtad\b|\bkolektor\w*|\bksdd\d?\b|\b(?-i:VisA)\b|\bdeeppcb\b"
    ),
    "others' findings": (
        r"\b(?:experts?|humans?|reviewers?|inspectors?|teams?|quality control|qa|qc|someone) (?:have |has |had )(?:already |previously )?(?:marked|labell?ed|tagged|drawn|confirmed|identified|verified|flagged|classified)\b"
        r"|\b(?:confirmed|verified|marked|identified|established|drawn) (?:beforehand|in advance|by (?:an? |the |human )?(?:experts?|humans?|reviewers?|specialists?))\b"
    ),
}  # fmt: skip

_BASED = r"(?:根据|依据|按照|依照|遵照|参照|参考|基于|结合|鉴于|遵循|对照|凭|借助|通过|从|由|与|和)"
_TRUTH_ZH = r"(?:异常|正常|缺陷|瑕疵|有问题|不合格|合格|良品|不良|次品|坏|无缺|ok|ng|划痕|裂纹|凹坑|破损|阳性|阴性)"
_SHOT_ZH = r"(?:样本|样品|图像|图片|照片|该图|此图|本图)"
_FRAME_ZH = r"(?:(?:边界|包围|检测|矩形|目标|定位|外接|标记|缺陷|异常|真值)?框(?!架))"
_GAP = r"[^,。!?;:、]{0,%d}?"
_MASK_ZH = r"(?:掩膜|掩模|遮罩)"
_TOLD_ZH = rf"(?:坐标|位置|区域|答案|类型|类别|结论|缺陷|异常|信息|标签|标注|结果|判定|提示|描述|{_MASK_ZH}|{_FRAME_ZH}|真|条件|约束|线索|说明|事实)"

_CHINESE = {
    "truth": r"真值|金标准|\bgt(?=[框标掩类的])|真实(?:标签|类别|答案|掩|框|边界框)|地面实况|地面真|基准真|标准答案|参考答案|正确答案|答案是?(?:已知|给定|固定)|答案(?:已|早|表明|显示|告诉|提供|给出|要求)",
    "annotation": (
        r"(?<!图纸)(?<!图纸上)(?<!图纸的)(?<!刻度)(?<!瓶身)(?<!外壳上)(?<!表面)(?<!丝印)(?<!印刷)(?<!铭牌)(?<!包装上)标注"
        r"(?!了?的?(?:尺寸|容量|型号|字样|字符|刻度|极性|批号|日期|电压|规格|方向|文字|符号|着|环|刻线|线|槽|牌))"
        r"|批注|注释"
    ),
    "label of the sample": (
        rf"(?:类别|图像|图片|样本|样品|真实|异常|正常|缺陷|数据|训练|像素|该图|此图|本图|给定|所给|提供|已知|分类|监督|二值|正确|隐藏|私有|目标|参考|gt)的?标签"
        rf"|(?:根据|依据|按照|依照|参照|参考|基于|结合|鉴于|对照){_GAP % 6}标签(?=[,。!?;:、)]|$|可|的?(?:信息|内容|指示|提示|说明|结果|类别|显示|判断|所示|描述)|判|显|知|得|给|来)"
        rf"|标签(?:已|也|中|里|上)?(?:显示|表明|说明(?!文字|书)|指出|指示|提示|给出|写明|说|告诉|确认|证实|标明|注明|指明|为|是|定为|判|写着|指向){_GAP % 12}{_TRUTH_ZH}"
        rf"|标签:{_TRUTH_ZH}|标签(?:信息|数据|文件|类别|告诉|给的|一致|相符|吻合)"
    ),
    "mask": (
        r"掩码|蒙版"
        rf"|(?:异常|缺陷|分割|给定|所给|提供|像素级?|二值|参考|已知|图像|目标)的?{_MASK_ZH}"
        rf"|(?:根据|依据|按照|基于|从|由|结合|参照|参考|依照)(?:该|此|给|所|提供的)?{_MASK_ZH}"
        rf"|(?<!阻焊)(?<!光刻)(?<!金属)(?<!焊锡){_MASK_ZH}(?:显示|表明|标出|标记|指示|指出|区域|范围|图|覆盖的|覆盖了?(?:该|缺陷|异常|区域)|所示|位置|内|中|提示|对应|给出|告诉)"
    ),
    "overlay": (
        r"(?:红|绿|蓝|黄|彩)色?的?(?:半透明)?(?:叠加|高亮|遮罩|覆盖层|标记框)|[红绿]框|(?:红|绿|蓝|黄|彩)色?的?(?:矩形|方|边界)?(?:框|圈|圆圈|轮廓线?)(?:标|标出|标记|内|里|选|中|所|指示|框|圈)"
        r"|(?:红|绿|蓝|黄|彩)色?的?(?:标记(?:处|区|出|的?(?:位置|缺陷))|覆盖(?:处|区))|半透明[^,。;]{0,3}覆盖"
        r"|叠加(?:的?[红绿蓝黄]|图|层|区|掩|框|标记|显示)|高亮(?:标|显示|出|框|的?(?:区域|部分|部位))|被高亮"
        r"|(?:已|已经|被|图中|图上|预先|事先|为我|给我)(?:圈出|框出|框选|标出|标明|注明|标记|标示|勾出|勾画)|(?:圈出|框出|框选|标出|标记出|勾画)的|标记的?(?:区域|范围|框)"
    ),
    "given": (
        rf"(?:给定|所给|已给|提供给我|给我|交给我|预设|预先给)的?(?:的)?{_GAP % 4}{_TOLD_ZH}"
        rf"|(?<!先验)(?<!工具)(?<!测量)(?<!图)(?<!图像)(?:提供|给出|告知)的{_GAP % 4}{_TOLD_ZH}"
        rf"|(?<!残差)(?<!图)指示的(?:位置|区域)|(?:指定|预定)的?(?:{_FRAME_ZH}|区域|坐标|答案|类别|缺陷|异常)"
        rf"|(?:边界|包围)框(?:内|里|中|所|给出|指示|显示|表明|告诉|已|为|标|提供|指出)|{_BASED}{_GAP % 3}(?:边界|包围)框"
        rf"|坐标(?:已|是)(?:给|知|提供)"
    ),
    "told": (
        r"被告知|我(?:所)?(?:拿到|收到|得到|获得)的?(?:框|信息|标签|答案|位置|坐标|提示|标注|结论|描述)|告知我|告诉我的|据[说称]|(?:系统|用户|题目|任务)告知|(?:既然|因为|由于)我?已?经?知道|备注(?:说|中|里|显示|表明|写)|(?:题目|任务|提示|系统|用户|老师|信息|他们|有人|数据|说明|标签|背景)[^,。;]{0,4}告诉了?我|(?:我|已|事先|预先|提前)(?:已经)?(?:得知|获知|知晓|获悉)"
        r"|(?:已经|早已|早就|事先|预先|提前|本来)就?(?:知道|得知|获知|知晓|已知|了解到|告知)"
        rf"|已知(?:该|此|这|本|其|它|{_SHOT_ZH}|图中|存在|有|为|是|的?(?:缺陷|异常|答案|标签|类别|结论|类型|位置|框|信息|判定|不良))"
        rf"|我知道(?:该|此|这|它|图中|{_SHOT_ZH}){_GAP % 10}{_TRUTH_ZH}"
        r"|监督(?!员|检查|抽查)"
    ),
    "prompt": (
        r"提示词|系统提示(?!音|灯|框)|用户提示|提示信息|提示(?:说|中|里|告诉|称)|任务(?:中|里|说明|描述|要求|提示|指令)|指令(?:要求|规定|中|里|说|给|是)|题目(?:中|里|要求|给|说|告|已|提)|题干"
        r"|约束(?:条件|要求)|给定约束|按照?(?:指示|指令|提示)(?!灯|牌|音)|按要求(?:回答|输出|作答|判|写|给出|得出)|要求我|被要求"
        rf"|(?:根据|依据|按照|依照|遵照|基于|遵循|参照|结合){_GAP % 6}(?:指令|提示(?!灯|音|标)|指示(?!灯|牌|标)|约束|要求(?:作答|回答|输出)|题目|任务|元数据|文件名|答案|告知|线索)"
        r"|作为(?:一个|一名)?(?:ai|人工智能|语言模型|助手|模型)|语言模型|大模型|教师模型|学生(?:模型|不|看|只|会|将)|思维链"
        r"|(?:用户|出题人|老师|教师|评审)(?:已|已经)?(?:说|要求|告|提供|给|希望|期望|表示)"
    ),
    "answer": r"(?:预期|期望|预设|既定|已知|目标|标准|参考|要求)的?(?:答案|回答|结论|判定|输出)|必须(?:回答|输出|作答|答)|应当?回答",
    "files and data": r"文件(?:名|夹|路径|命名|标题)|档名|目录(?:名|结构)|(?:图像|图片)(?:名|路径|编号)|数据集|资料集|数据库|训练(?:集|数据|样本|图)|测试集|验证集|基准(?:数据|测试)|语料|元数据|元信息|路径(?:里|名|含|包含)|(?:属于|归为|归入|来自)(?:异常|缺陷|正常|不良|ok|ng)(?:类别|样本|集)",
    "secret": (
        r"(?:不能|不可|不得|不应|不该|不许|不要|禁止|避免|切勿|不便|不准|勿|不会)[^,。;]{0,6}(?:透露|泄露|泄漏(?:答案|信息|标)|提及|提到|说出|公开|披露|声张|暴露(?:答案|标|信息|来源|我))"
        r"|(?:私有|私密|内部|隐藏|保密|机密|秘密|特权|内幕)的?(?:信息|标签|标注|答案|提示|结论|知识|数据|指令|上下文)|假装|佯装|装作"
    ),
    "others' findings": (
        rf"{_SHOT_ZH}的?类别[为是]{_TRUTH_ZH}|{_SHOT_ZH}[^,。;]{{0,4}}(?:被|已)(?:经|被)*(?:标|归类|分类|登记|记录|列)(?:为|成|作|入)?[^,。;]{{0,4}}{_TRUTH_ZH}"
        r"|专家(?:认定|认为|标|确认|指出|判定)|(?:专家|人工|质检员|检验员)(?:已|已经|之前|先前|事先)[^,。;]{0,4}(?:标|确认|圈|认定|判)"
    ),
}  # fmt: skip

_PATTERNS = {
    f"{language}: {name}": re.compile(pattern, re.IGNORECASE)
    for language, table in (("English", _ENGLISH), ("Chinese", _CHINESE))
    for name, pattern in table.items()
}
_TO_SIMPLIFIED = str.maketrans(
    "標註籤簽數據資實碼圖層紅綠藍黃類別樣異監檔題務輸應隱給邊圍範顯說為夾結論預設確認參語學師訓練測試庫問區裡無會評審裝專劃從與鑒經獲寫稱將",
    "标注签签数据资实码图层红绿蓝黄类别样异监档题务输应隐给边围范显说为夹结论预设确认参语学师训练测试库问区里无会评审装专划从与鉴经获写称将",
)
"""Maps the traditional characters of the patterns above to simplified ones."""
_SEPARATORS = " \t\r\n\f\v-_‐‑"
_QUOTES = '"*`“”„«»「」『』《》‘'


def find_leaks(text: str) -> list[str]:
    """Return the phrases of ``text`` that reveal supervision, as written and in order.

    Case, full-width forms, quotation marks, and spaces, hyphens or line breaks within a phrase are ignored.
    """
    plain, origin = _normalize(text)
    spans = sorted(match.span() for pattern in _PATTERNS.values() for match in pattern.finditer(plain))
    joined: list[tuple[int, int]] = []
    for start, end in spans:
        if joined and start < joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return [text[origin[start] : origin[end - 1] + 1] for start, end in joined]


def replace_category_name(text: str, category: str) -> str:
    """Replace the category's name in ``text`` (such as ``mask``, ``555_timer`` or ``10_mm_bolt``) by a neutral word."""
    names = sorted({category, spell_out(category), category_name(category)}, key=len, reverse=True)
    pattern = "|".join(r"[\s_-]+".join(map(re.escape, re.split(r"[\s_]+", name))) for name in names)
    return re.sub(rf"(?<![\w.-])(?:{pattern})(?![\w-])(?!\.\d)", "object", text, flags=re.IGNORECASE)


def _normalize(text: str) -> tuple[str, list[int]]:
    """Normalize ``text``, and return the result with the source index in ``text`` of each of its characters.

    Characters become their NFKC and simplified form; quotation marks are dropped; runs of spaces, hyphens and line
    breaks become one space, or nothing between Chinese characters.
    """
    plain: list[str] = []
    origin: list[int] = []
    for index, written in enumerate(text):
        for char in unicodedata.normalize("NFKC", written.replace("’", "'")).translate(_TO_SIMPLIFIED):
            if char in _QUOTES or unicodedata.category(char) == "Cf":
                continue
            if char == "'" and not (text[index - 1 : index].isalpha() and text[index + 1 : index + 2].isalpha()):
                continue
            if char in _SEPARATORS:
                if plain and plain[-1] != " ":
                    plain.append(" ")
                    origin.append(index)
                continue
            if _is_chinese(char) and len(plain) > 1 and plain[-1] == " " and _is_chinese(plain[-2]):
                plain.pop()
                origin.pop()
            plain.append(char)
            origin.append(index)
    return "".join(plain), origin


def _is_chinese(char: str) -> bool:
    return "\u3400" <= char <= "\u9fff" or char in ",。!?;:、()"
