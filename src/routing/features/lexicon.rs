//! Words that say which domain a text is about, in Chinese and English, by group.
//!
//! N-grams learn the wording of their training set; these lists carry to text from elsewhere. The groups are features,
//! not rules: how much each one says for which domain is learned. Entries are folded (lower case, digits as `0`);
//! `_` stands for whatever separates two words; an English entry also matches its plural; CJK entries have at most
//! four characters. A word is in one group only. The lists were written for this project.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::LazyLock;

use super::ngram::hash_chars;
use super::normalize::is_cjk;

/// One list of words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    Mathematics,
    Programming,
    Technology,
    Condition,
    Treatment,
    Body,
    Compose,
    Genre,
    Document,
    Society,
    Everyday,
    Ask,
    Science,
    Language,
}

/// Number of [`Group`]s.
pub const N_GROUPS: usize = 14;

/// Latin endings that medicine forms its terms with; none is a common ending elsewhere.
const MEDICAL_ENDINGS: [&str; 27] = [
    "itis", "oma", "omas", "ectomy", "otomy", "ostomy", "plasty", "scopy", "scopic", "osis", "emia", "emic", "uria",
    "pathy", "pathic", "algia", "plegia", "trophy", "cardial", "mycin", "cillin", "prazole", "statin", "vascular",
    "therapy", "cytes", "lytic",
];

/// The group of a Latin word that is in no list but is formed as a medical term.
pub fn group_of_ending(word: &[char]) -> Option<usize> {
    let ends_with = |ending: &str| {
        ending.len() < word.len() && word[word.len() - ending.len()..].iter().copied().eq(ending.chars())
    };
    let medical = word.len() >= 7 && MEDICAL_ENDINGS.into_iter().any(ends_with);
    medical.then_some(Group::Condition as usize)
}

/// The group of a CJK window or a Latin word (or two words joined by a space), by the hash of its characters.
pub fn group_of(hash: u64) -> Option<usize> {
    INDEX.get(&hash).map(|&group| group as usize)
}

/// Keys are hashes already; hashing them again would be the dearest part of a lookup.
#[derive(Default)]
struct AlreadyHashed(u64);

impl Hasher for AlreadyHashed {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, &byte| hash.rotate_left(8) ^ u64::from(byte));
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

static INDEX: LazyLock<HashMap<u64, u8, BuildHasherDefault<AlreadyHashed>>> = LazyLock::new(|| {
    let mut index = HashMap::default();
    for (group, words) in WORDS {
        for word in words.split_whitespace() {
            let chars: Vec<char> = word.chars().map(|c| if c == '_' { ' ' } else { c }).collect();
            index.insert(hash_chars(&chars), *group as u8);
            if !chars.iter().any(|&c| is_cjk(c)) {
                let plural: Vec<char> = chars.iter().copied().chain(['s']).collect();
                index.entry(hash_chars(&plural)).or_insert(*group as u8);
            }
        }
    }
    index
});

const WORDS: &[(Group, &str)] = &[
    (
        Group::Mathematics,
        "
        方程 函数值 数列 等差 等比 概率 几何 三角形 四边形 平行四边 圆锥 圆柱 球体 椭圆 抛物线 双曲线 直线 切线 斜率
        向量 矩阵 行列式 特征值 导数 求导 微分 积分 极限 级数 定积分 偏导 复数 实数 有理数 无理数 整数 质数 素数
        因数 倍数 公倍数 公约数 分数 小数 百分之 平方 立方 根号 平方根 对数 指数 幂 正弦 余弦 正切 sin cos tan
        不等式 定义域 值域 单调 最大值 最小值 极值 最值 体积 周长 半径 直径 边长 表面积 千米 厘米 平方米 公顷 千克
        排列 组合数 二项式 期望值 方差 标准差 正态分布 集合 子集 并集 交集 命题 充分条件 必要条件 证明 求证 解方程
        求解 求值 计算 算式 化简 因式分解 多项式 未知数 坐标 象限 原点 对称轴 垂直 平行 夹角 锐角 钝角 直角 中点
        焦点 离心率 通项 均值 平均数 中位数 众数 样本 抽样 相遇 相距 每小时 每分钟 每天 共有 还剩 一共 剩下 余数
        相乘 相除 乘以 除以 之和 之差 之积 倍 元钱 同余 拓扑 群论 线性代数 微积分 统计量 假设检验 几个 多少个 多少千
        几分之 行驶 工程队 折扣 单价 同时出发 甲乙 两地 鸡兔 浓度 equation algebra geometry calculus derivative
        integral theorem proof prove polynomial quadratic triangle circle radius diameter perimeter area volume
        angle vector matrix matrices eigenvalue determinant probability permutation combination factorial integer
        prime divisor divisible fraction decimal percent percentage ratio sum product quotient remainder square_root
        cube logarithm exponent sine cosine tangent slope hypotenuse parallel perpendicular inequality maximum
        minimum sequence arithmetic geometric binomial modulo gcd lcm simplify evaluate compute how_many how_much
        each_day per_hour per_day total dollar cents twice half_as times_as altogether remaining solve_for mph mile
        feet inches real_number complex_number odd even digit dice coin frac sqrt cdot times leq geq neq angle_abc
        triangle_abc expectation variance median 多少棵 多少只 多少页 多少本 多少吨 多少米 多少克 多少人 多少台
        多少箱 多少条 多少块 多少张 多少名 多少瓶 多少筐 多少袋 多少盒 多少件 多少辆 多少支 多少根 多少头 多少粒
        多少升 多少朵 多少千克 多少平方 多少立方 多少小时 多少分钟 多少天 多少万 多少钱 这个数 另一个数 加数 减数
        被减数 被除数 除数 积 和是 差是 比值 质因数 合数 奇数 偶数 自然数 毫米 分米 米长 吨 多几 少几 比原来 原价
        现价 涨价 降价 打折 盈利 平均每 每天修 每隔 栽树 植树 相当于 几种 穿法 修路 甲数 乙数 男生 女生 全班 总人数
        运来 运走 卖出 还剩多少 按比例 比例 正比例 反比例 图形 长方形 正方形 正方体 长方体 梯形 菱形 圆形 圆周率
        弧长 近似值 精确到 有效数字 绝对值 相反数 倒数 整除 通分 约分 竖式 简便计算 加速度 初始速度 满足条件
        已知函数 若函数 设集合 设函数 则实数 取值范围 的值为 数学 代数 三角函数 求和 平均值 how_long how_far how_old
        how_tall in_total in_all left_over than_twice more_than less_than the_value value_of find_all mean average
        solve calculate integral_of geometric_series linear_algebra topology theorem_of real_root root of_unity
        natural_number positive_integer sum_of number_of the_probability probability_that math mathematics 随机变量
        泊松 泊松分布 服从 概率密度 分布函数 奇偶性 单调性 周期性 奇函数 偶函数 反函数 复合函数 指数函数 对数函数
        幂函数 二次函数 一次函数 初等函数 连续性 可导 可微 收敛 收敛性 发散 泰勒 傅里叶 拉格朗日 洛必达 中值定理
        微分方程 特征向量 可逆 逆矩阵 线性无关 线性方程 方程组 向量空间 内积 正交 二次型 数学归纳 归纳法 反证法 鸽巢
        抽屉原理 排列数 组合数学 互相认识 同构 阿贝尔 素理想 黎曼 复变 留数 几何体 三棱锥 四棱锥 棱柱 外接球 内切圆
        外接圆 圆心 圆的方程 切点 渐近线 准线 参数方程 极坐标 不动点 递推 前项和 首项 公差 公比 等于多少 求和公式
        单位换算 进制 同余方程 掷骰子 抛硬币 摸球 白球 红球 不放回 有放回 abelian subgroup isomorphic isomorphism
        homomorphism ring_of field_of element_of order_of group_in prime_number lowest_terms factorise factorize
        factor_x expand differentiate differentiable integrate converge convergence diverge taylor fourier laplace
        eigenvector invertible linear_system basis subspace orthogonal inner_product induction contradiction
        pigeonhole combinatorics poisson normal_distribution standard_deviation confidence_interval random_variable
        expected_value bayes conditional_probability dice_are coin_is without_replacement with_replacement
        tangent_line area_enclosed enclosed_between bounded_by surface_area cone cylinder sphere pyramid prism
        rectangle square perimeter_of circumference midpoint bisector congruent similar_triangles trapezoid hexagon
        pentagon polygon ratio_of per_cent discount interest compound_interest simple_interest train_leaves
        travels_at speed_of average_speed liter litre gallon kilometre kilometer metres minutes_does 求面积 多少元
        几元 苹果树 梨树 果园 果树 剩余 用去 修了 读了 看了 第一天 第二天 第一次 第二次 上午 下午 一半 几小时 几天
        几米 几千克 几页 几本 几人 几分 平均 增加 减少 二进制",
    ),
    (
        Group::Programming,
        "
        代码 编程 程序 算法 函数 变量 数组 字符串 链表 二叉树 哈希 哈希表 递归 循环 遍历 排序算法 动态规划 复杂度
        指针 继承 多态 接口 封装 线程 进程 多线程 并发 死锁 协程 异步 同步 内存 内存泄漏 垃圾回收 编译 编译器 解释器
        调试 报错 异常 断点 单元测试 重构 设计模式 框架 前端 后端 数据库 索引 查询语句 事务 主键 外键 缓存 分布式
        微服务 负载均衡 消息队列 容器 镜像 部署 服务器 协议 请求头 响应 接口文档 正则 脚本 命令行 终端 源码 开源
        仓库 分支 提交代码 依赖 版本号 返回值 参数 入参 下标 整数数组 子数组 子序列 子串 字典序 节点 遍历树 图论
        最短路 网页 爬虫 布局 样式 组件 渲染 路由 中间件 线程池 反射 注解 泛型 序列化 反序列化 字节码 虚拟机
        操作系统 内核 文件系统 套接字 加密算法 神经网络 数据结构 软件 应用程序 网络编程 实现原理 底层原理 接口设计
        补全 数据类型 布尔 空指针 编码格式 查询优化 数据表 字段 语法错误 code coding program programming algorithm
        function method variable array string integer_array linked_list binary_tree hash hashmap stack queue
        recursion recursive loop iterate sort sorting dynamic_programming complexity pointer class inheritance
        polymorphism interface object thread multithreading concurrency deadlock coroutine async await synchronous
        memory compile compiler debug debugging bug error exception stacktrace unit_test refactor framework frontend
        backend database index query schema transaction cache distributed microservice container deploy server port
        protocol api endpoint regex regexp script shell terminal repository repo branch commit merge dependency
        library package module import return parameter argument subarray substring subsequence node graph webpage
        website css_style component render route middleware generics serialize deserialize bytecode runtime kernel
        socket boolean null none tuple dict dictionary list_comprehension implement implementation snippet software
        developer syntax data_structure data_type leetcode def struct enum const void println printf stdin stdout
        file_system 击穿 缓存穿透 缓存雪崩 预热 幂等 限流 熔断 降级 分布式锁 高可用 高并发 吞吐量 读写分离 分库分表
        主从复制 脏读 幻读 回滚 日志文件 心跳 长连接 短连接 握手 挥手 三次握手 子网 网关 域名解析 路由器 攻击原理
        注入攻击 跨域 会话 令牌 鉴权 登录功能 权限控制 加载类 类加载 构造函数 构造器 成员变量 静态方法 抽象类 重载
        重写方法 拷贝 深拷贝 浅拷贝 引用 常量 作用域 闭包 迭代器 生成器 装饰器 lambda 回调 事件循环 线程安全 乐观锁
        悲观锁 自旋锁 原子性 可见性 虚拟内存 物理内存 分页 分段 页面置换 用户态 内核态 系统调用 进程间 管道 信号量
        堆内存 栈溢出 堆排序 快速排序 冒泡排序 归并排序 二分查找 二分法 广度优先 深度优先 回溯 贪心 背包 红黑树
        平衡树 跳表 布隆过滤 联合索引 聚簇索引 覆盖索引 回表 慢查询 执行计划 建表 存储过程 触发器 视图 查询以 的查询
        数据类 网站 页面 控制台 打印 输出结果 给定数组 整型 浮点 字符 小写字母 子集合 矩阵乘法 元组 字典 列表中 模块
        插件 接口测试 压力测试 软件工程 敏捷 需求分析 架构 系统设计 人脸识别 深度学习 训练模型 数据集 爬取 识别程序
        游戏程序 剪刀石头 constructor destructor decorator callback event_loop iterator generator closure singleton
        factory_pattern session cookie token authentication authorization gateway throughput latency idempotent
        rate_limit circuit_breaker bitmap latch barrier executor timer varchar select from where join group_by
        order_by insert update delete explain_analyze primary_key foreign_key stored_procedure trigger html_page
        web_app web_application app chatbot machine_learning deep_learning neural_network classifier
        linear_regression user_interface ui ux print output_the python_function java_program write_code game_in
        hello_world console debugger breakpoint pseudocode brute_force big_o palindrome fibonacci anagram
        bubble_sort binary_search lowercase uppercase nested 单体应用 重构方案 流水线 持续集成 灰度 脚手架 一行命令
        按列 分组求和 条件变量 互斥 互斥量 内存对齐 右值 智能指针 模板类 宏定义 头文件 链接错误 段错误 编写程序
        写程序 写代码 写脚本 写函数 实现一个 实现函数 用代码 类图 伪代码 测试用例 边界条件 mutex semaphore
        condition_variable makefile div flexbox flex grid css_grid one_liner monolith ci pipeline integration_test
        pr prs pull_request merge_conflict rebase heap heaps stream_of promise reject resolve callback_hell
        settimeout console_log var let useeffect usestate hook hooks props state_management typescript_type template
        macro header linker segfault segmentation null_pointer undefined stack_trace logging logger cron daemon
        systemd_unit dockerfile yaml_file json_schema parse parser parsing tokenizer lexer ast hash_table trie
        lru_cache lru sliding_window two_pointers memoization backtracking greedy dijkstra bfs dfs topological_sort
        adjacency union_find bit_manipulation bitwise endian mutex_lock race_condition data_race goroutine
        borrow_checker lifetime ownership crate trait async_fn 端口 队列 正则表达 时间复杂 空间复杂 机器学习",
    ),
    (
        Group::Technology,
        "
        python java javascript typescript golang rust cpp c++ c# php ruby kotlin swift scala perl lua matlab sql
        mysql postgresql postgres sqlite oracle mongodb redis kafka rabbitmq elasticsearch nginx apache tomcat
        spring springboot mybatis hibernate django flask fastapi react vue angular nodejs npm webpack html css json
        xml yaml csv http https tcp udp dns cdn rpc grpc rest restful graphql websocket oauth jwt docker kubernetes
        k0s linux ubuntu centos windows macos android ios git github gitlab svn maven gradle jenkins bash zsh
        powershell vim vscode numpy pandas pytorch tensorflow keras sklearn scikit opencv jvm jdk jre gc aqs cas
        threadlocal arraylist concurrenthashmap juc ioc aop mvc orm crud ide sdk cli gui url uri utf ascii unicode
        base00 md0 sha000 aes rsa ssl tls ssh ftp nio bio epoll innodb mvcc zookeeper dubbo netty 安卓 小程序
        云服务器 浏览器 服务端 客户端 mybatis_plus feign nacos sentinel reentrantlock countdownlatch threadpool
        completablefuture synchronized volatile stringbuilder hashset treemap gson jackson fastjson log0j slf0j
        junit mockito selenium postman swagger figma excel wordpress shopify aws azure gcp firebase supabase
        langchain openai llm pip conda jupyter matplotlib plotly scipy 汇编 单片机 arduino raspberry stm00 plc fpga
        verilog 嵌入式 flutter electron jquery bootstrap tailwind nextjs nuxt laravel rails dotnet net asp unity
        unreal opengl cuda mqtt hadoop spark flink hive clickhouse etcd consul grafana prometheus terraform ansible
        helm webhook crontab systemd iptables awk sed grep curl cmake gcc clang llvm pytest vite eslint babel c++00
        es0 symfony dart elixir haskell ocaml clojure erlang zig solidity vba powerquery pyspark airflow dbt
        bigquery snowflake s0 ec0 cloudflare openssl",
    ),
    (
        Group::Condition,
        "
        病 症 癌 炎 疼 痛 痒 肿 瘤 患者 症状 疾病 病因 病情 病人 患有 得了 感冒 发烧 发热 咳嗽 头痛 头疼 头晕 恶心
        呕吐 腹泻 便秘 腹痛 胃痛 肚子疼 胸闷 胸痛 心悸 失眠 乏力 水肿 出血 高血压 低血压 糖尿病 冠心病 心脏病 心肌梗
        脑梗 脑梗死 中风 哮喘 肺炎 肺结核 支气管炎 鼻炎 咽炎 胃炎 胃溃疡 肠炎 肝炎 乙肝 肝硬化 脂肪肝 肾炎 肾结石
        胆结石 胆囊炎 阑尾炎 痔疮 前列腺 尿频 尿急 贫血 白血病 肿瘤 恶性 良性 转移 乳腺癌 肺癌 肝癌 胃癌 宫颈癌
        甲状腺 甲亢 甲减 痛风 关节炎 风湿 骨折 骨质疏松 颈椎病 腰椎 腰椎间盘 湿疹 皮疹 过敏 荨麻疹 痤疮 皮炎 癫痫
        抑郁症 焦虑症 精神分裂 帕金森 老年痴呆 感染 病毒 细菌 真菌 发炎 化脓 溃疡 白带 月经 痛经 怀孕 流产 早产 不孕
        不育 妊娠 胎儿 孕妇 新生儿 婴儿 小儿 宝宝 早泄 阳痿 近视 白内障 青光眼 中耳炎 耳鸣 牙痛 口腔溃疡 并发症
        后遗症 综合征 综合症 急性 慢性 disease symptom patient syndrome disorder cancer tumor tumour carcinoma
        diabetes diabetic hypertension stroke asthma pneumonia infection infected virus bacterial fungal fever cough
        headache nausea vomiting diarrhea constipation pain chest_pain inflammation chronic acute lesion anemia
        leukemia lymphoma metastasis metastatic arthritis fracture osteoporosis allergy allergic rash eczema
        epilepsy seizure depression anxiety schizophrenia dementia alzheimer parkinson pregnancy pregnant preterm
        infant neonatal obesity obese mortality morbidity prognosis prognostic survival risk_factor comorbidity
        complication sepsis hepatitis cirrhosis renal_failure heart_failure myocardial_infarction thrombosis
        sore_throat dizziness fatigue insomnia migraine pathogenesis outcome incidence prevalence 性欲 房事 脱皮
        开裂 扭伤 拉伤 挫伤 烫伤 烧伤 疤痕 伤口 红肿 肿胀 鼻塞 流鼻涕 打喷嚏 嗡响 鸣音 难受 不舒服 胀气 肚胀 腹胀
        胃胀 反酸 打嗝 口臭 口苦 口干 盗汗 潮红 脱发 白发 长痘 痘痘 青春痘 祛斑 黑眼圈 大姨妈 例假 闭经 排卵 多囊
        宫缩 宫外孕 备孕 试管 受精 胎动 胎心 羊水 顺产 剖腹产 剖宫产 产后 坐月子 母乳 断奶 乳牙 换牙 龋齿 蛀牙 智齿
        牙周 息肉 囊肿 结节 结石 肌瘤 血管瘤 脂肪瘤 增生 糜烂 痉挛 抽搐 麻木 瘫痪 昏迷 休克 出血热 传染 会传染 狂犬
        破伤风 水痘 麻疹 风疹 手足口 流感 新冠 艾滋 hiv hpv 梅毒 淋病 尖锐湿疣 疱疹 疥疮 癣 脚气 灰指甲 白癜风
        银屑病 牛皮癣 红斑狼疮 肾病 尿毒症 蛋白尿 血尿 心律不齐 早搏 房颤 心衰 心绞痛 动脉硬化 静脉曲张 血栓 血脂高
        血糖高 血压高 尿酸 骨刺 滑膜炎 半月板 肩周炎 坐骨神经 面瘫 三叉神经 偏头痛 眩晕 自闭症 多动症 强迫症 更年期
        上火 中暑 中毒 食物中毒 铅中毒 辐射 遗传病 畸形 唐筛 晚期 早期 能活多久 怎么回事 什么原因 adult children
        elderly older_adults women men smoking smoker injury concussion trauma burn wound fragility neoplasia polyp
        cyst stone arrhythmia fibrillation ischemia ischemic cardiomyopathy regurgitation reflux dysfunction
        disability disabilities palsy deficiency syndrome_patients cancer_patients ill illness sick health unhealthy
        swelling swollen bleeding itchy itching numbness cramp cramps ache aching sprain nosebleed acne hives
        bloating heartburn vertigo tinnitus snoring menopause menstrual miscarriage infertility aids covid influenza
        flu measles malaria tuberculosis 心慌 手抖 瘦了 消瘦 发抖 发麻 发冷 怕冷 多汗 出汗 嗜睡 健忘 落枕 闪了腰
        崴脚 流血 淤青 咬伤 蜇伤 呛水 异物 打鼾 呼吸暂停 憋气 气短 喘 反胃 嗳气 便血 黑便 尿痛 血丝 痰 咳痰 低烧
        高烧 惊厥 起疹 起泡 脓 麻疹疫苗 snore exhausted stop_breathing breathless breathing shortness_of
        palpitations fainting faint slow_pulse pulse tsh ferritin haemoglobin hba0c a0c creatinine bilirubin alt psa
        bp high_blood low_blood rash_on lump mole blister cough_for sore bruise bitten sting dehydration heatstroke
        hypoglycemia hyperglycemia hypothyroidism hyperthyroidism pcos endometriosis ibs crohn lupus gout sciatica
        shingles chickenpox mono strep concussions",
    ),
    (
        Group::Treatment,
        "
        药 医 治疗 怎么治 如何治疗 治愈 能治好 吃什么药 用药 服用 药物 药品 药膏 副作用 剂量 抗生素 消炎药 阿莫西林
        头孢 布洛芬 阿司匹林 胰岛素 激素 二甲双胍 中药 西药 中医 西医 偏方 针灸 艾灸 推拿 手术 切除 微创 化疗 放疗
        透析 移植 注射 打针 输液 疫苗 接种 麻醉 住院 医院 医生 大夫 门诊 挂号 科室 内科 外科 妇科 儿科 检查 化验
        血常规 尿常规 彩超 核磁 核磁共振 胃镜 肠镜 心电图 活检 穿刺 诊断 确诊 鉴别诊断 预防 护理 康复 饮食注意 忌口
        复发 偏高 偏低 阳性 阴性 指标 体检 处方 医保 急救 临床 疗效 调理 注意什么 treatment therapy therapeutic drug
        medication medicine dose dosage antibiotic aspirin ibuprofen insulin steroid vaccine vaccination surgery
        surgical laparoscopic resection chemotherapy radiotherapy radiation dialysis transplant transplantation
        injection anesthesia hospital hospitalized doctor physician nurse clinic clinical diagnosis diagnostic
        diagnose screening biopsy mri ct_scan ultrasound endoscopy ecg prescription randomized placebo cohort
        efficacy side_effect health_care healthcare rehabilitation postoperative preoperative prophylaxis follow_up
        emergency_department intervention biomarker serum plasma receptor gene_expression immunohistochemical
        predict predictor 应该怎么 怎么治疗 怎么办 如何预防 能去根 根治 除疤 去除 吃药 颗粒 胶囊 片剂 口服液 滴眼液
        眼药水 栓剂 贴剂 膏药 金片 肚脐贴 脐贴 安神 益气 补肾 滋阴 壮阳 清热 解毒 活血 化瘀 止痛 止咳 退烧 退热
        降压药 降糖 消炎 杀菌 抗病毒 干扰素 靶向 介入 支架 搭桥 起搏器 人工关节 假肢 矫正 正畸 种植牙 拔牙 补牙 洗牙
        根管 隆鼻 双眼皮 吸脂 植发 激光治疗 冷冻 理疗 拔罐 刮痧 按摩 泡脚 食疗 喝什么 能不能吃 可以吃 忌吃 哺乳期
        产检 体检报告 化验单 造影 病理 切片 筛查 检测 疾控 急诊 住院费 手术费 治疗费 专科医院 哪家医院 看什么科
        什么科 医师 专家 咨询 cure remedy remedies pill tablet capsule vitamin supplement antiviral antimicrobial
        prescribing acupuncture physiotherapy radiology catheter catheterization stent bypass implantation implant
        repair replacement graft donor laser endoscopic arthroscopic robotic_surgery ventilation intubation icu
        intensive_care nursing caregiver care primary_care medical medicaid medicare public_health guideline
        evidence_based cost_effective randomised trial meta_analysis retrospective prospective score_system
        scoring_system marker assay pcr antibody antibodies antigen mutation expression mice rat rats in_vitro
        in_vivo 挂哪个科 哪个科 查什么 停药 换药 加量 减量 漏服 饭前 饭后 相互作用 能一起吃 能喝酒 偏高怎么 偏低怎么
        化验结果 报告单 gp a0e paracetamol acetaminophen tylenol statins metformin amoxicillin penicillin
        antihistamine antidepressant ssri beta_blocker ace_inhibitor warfarin donepezil levothyroxine omeprazole
        contraceptive inhaler dialysed take_with safe_to symptoms_of treatment_for what_test blood_test test_results
        side_effects",
    ),
    (
        Group::Body,
        "
        身体 心脏 肝脏 肾脏 肺部 胃部 肠道 大脑 血管 动脉 静脉 血压 血糖 血脂 胆固醇 血液 红细胞 白细胞 血小板
        血红蛋白 淋巴 淋巴结 神经 骨头 关节 膝盖 肌肉 皮肤 喉咙 嗓子 眼睛 耳朵 鼻子 牙齿 牙龈 舌头 脖子 颈部 肩膀
        后背 腰部 腹部 胸部 乳房 子宫 卵巢 输卵管 阴道 睾丸 阴茎 包皮 肛门 膀胱 尿道 尿液 大便 小便 拉肚子 脾胃 肝肾
        气血 免疫力 内分泌 指甲 手脚 大腿 小腿 脚踝 头部 脸部 额头 嘴唇 胆囊 胰腺 脾脏 食管 十二指肠 heart liver
        kidney renal hepatic lung pulmonary cardiac gastric intestinal colorectal colon brain cerebral vascular
        artery arterial coronary vein blood blood_pressure glucose cholesterol platelet hemoglobin lymph nerve
        neural bone joint knee hip muscle skin throat eye ear nose tooth teeth dental neck shoulder spine spinal
        abdomen abdominal breast uterus uterine ovarian cervical prostate bladder urinary thyroid pancreatic tissue
        cell stomach immune endocrine 大拇指 手指 脚趾 脚背 手腕 手臂 胳膊 肘 肩 腰 腿 肠子 阑尾 扁桃体 声带 气管
        支气管 鼻腔 鼻窦 耳道 眼皮 眼睑 视网膜 角膜 瞳孔 下巴 脸上 头皮 头发 皮下 腋下 腹股沟 私处 外阴 龟头 精子
        精液 卵子 胎盘 宫颈 盆腔 附件 肝胆 脾 胃 肺 肾 肝 右耳 左耳 左手 右手 左侧 右侧 腰涨 舌苔 怀孕多久 宝妈 老人
        小孩 儿子今年 女儿今年 cornea corneal retina retinal esophageal mucosa endometrial vaginal pelvic mitral
        aortic valve ventricular atrial carotid femoral tibial hepatocellular bowel rectal anal lip tongue jaw scalp
        hair nail finger thumb toe ankle wrist elbow foot leg arm back chest belly gut bile vocal facial hormone
        estrogen testosterone cortisol hemodialysis serum_level",
    ),
    (
        Group::Compose,
        "
        写 撰写 写一篇 写一首 写一个 写一段 写一封 写一份 写出 帮我写 请写 创作 起草 拟一份 草拟 改写 重写 续写 仿写
        扩写 缩写 润色 修改文章 编一个 编故事 编写故事 作文 作诗 赋诗 填词 构思 描写 描绘 抒发 拟写 写作 文笔 文风
        语气 口吻 风格 字数 不少于 字以内 字左右 押韵 开头 结尾 起标题 取标题 拟题 拟定 代写 配文 修辞 拟人 比喻
        生动 文采 write compose draft rewrite rephrase paraphrase proofread craft author narrate brainstorm write_a
        write_an word_count words tone style rhyme creative catchy persuasive heartfelt vivid polish edit reword
        describe_a description_of 写一 写两 写三 写几 写给 写关于 想写 要写 来写 一篇 一首 一封 一段 编一 作一 措辞
        谱写 书写 扩展成 改编 发表一篇 第一人称 第三人称 以此为题 为题 为主题 千字 百字 字的 情感真挚 引人入胜 幽默
        诙谐 正式的 语言优美 抒情 写得 更正式 更简洁 口语化 write_me write_about written make_up come_up imagine
        invent tell_me rewrite_the style_of first_person third_person words_or word_essay formal informal humorous
        witty engaging compelling poetic descriptive creative_writing personal_statement generate_a create_a
        describing 仿照 仿写句子 模仿 原创 压缩成 整理成 译成五言 改成 文笔优美 有画面感 出彩 感人 煽情 温暖 亲切
        正式一点 得体 俏皮 朗朗上口 打动人 版本 三个版本 双语各 一线城市 adapt rework tighten shorten expand_on
        punchy heartwarming whimsical poignant tone_of gentle_tone warm_tone in_verse voice_of versions_of two_pages
        one_page",
    ),
    (
        Group::Genre,
        "
        散文 随笔 小说 短篇小说 故事 童话 寓言 诗 诗歌 古诗 绝句 律诗 俳句 十四行诗 歌词 剧本 台词 对白 独白 对联
        演讲稿 发言稿 讲话稿 主持词 致辞 致谢 祝福语 贺词 悼词 情书 书信 信 一封信 邮件 电子邮件 求职信 推荐信
        感谢信 道歉信 邀请函 介绍信 自我介绍 简历 个人陈述 文案 广告 广告语 标语 口号 宣传语 软文 推文 博客 博文
        朋友圈 小红书 微博 新闻稿 启事 说明书 书评 影评 读后感 观后感 论文 提纲 大纲 总结报告 工作总结 周报 日报
        述职 策划书 策划案 计划书 教案 评语 日记 游记 传记 墓志铭 谜语 笑话 段子 脱口秀 产品描述 商业计划 倡议书
        申请书 议论文 记叙文 说明文 主人公 情节 essay story short_story novel poem poetry haiku sonnet limerick
        ballad lyrics song screenplay script_for monologue speech toast letter email cover_letter resume blog
        blog_post slogan tagline advertisement caption tweet press_release newsletter proposal memo diary journal
        fairy_tale fable fiction plot protagonist verse stanza eulogy obituary joke riddle product_description
        testimonial pitch brochure flyer invitation thank_you 通讯稿 社论 专栏 打油诗 五行 诗句 现代诗 藏头诗 剧情
        大结局 续集 科幻 悬疑 武侠 言情 微小说 情景剧 小品 相声 短剧 脚本大纲 短视频 直播话术 话术 销售信 商业信函
        商务邮件 信函 备忘录 会议纪要 会议记录 活动方案 策划 品牌故事 公司简介 个人简介 团队介绍 使用说明 用户手册
        心得 心得体会 思想汇报 入党申请 检讨书 保证书 承诺书 辞职信 请假条 祝福 生日祝福 新年贺词 婚礼 毕业 开场白
        结束语 颁奖词 解说词 导游词 串词 广播稿 辩论稿 竞选 竞聘 自荐信 课件 教学设计 课程大纲 读书笔记 短文 小故事
        鬼故事 爱情故事 睡前故事 标语口号 金句 tale fairytale bedtime_story love_story science_fiction sci_fi
        fantasy mystery thriller romance comedy tragedy skit sketch scene act_one editorial op_ed opinion_piece
        interview_questions podcast_script youtube video_script sales_letter sales_pitch elevator_pitch
        mission_statement about_us landing_page instagram facebook linkedin twitter hashtag social_media
        persuasive_essay five_paragraph thesis book_report movie_review book_review user_manual meeting_minutes
        resignation recommendation_letter love_letter farewell wedding graduation acceptance_speech nursery lullaby
        rap acrostic free_verse poetic_form conversation_between 灯谜 排比句 排比 独幕剧 电影剧本 台本 贺卡 卡片
        明信片 便条 祝酒 敬酒 声明 道歉声明 拒绝函 商务函 函件 口述史 绘本 童谣 儿歌 摇篮曲 三句半 快板 评书 七绝
        七律 五言 七言 五律 五绝 词牌 元曲 骈文 微电影 分镜 旁白 藏头 顺口溜 谚语创作 情诗 家书 回信 感言 获奖感言
        年终总结 工作汇报 竞聘稿 推荐语 人设 开篇 首句 收尾 番外 同人 greeting_card birthday_card postcard voicemail
        greeting_for apology_statement statement_for fortune_cookie message messages villain first_sentence
        opening_line opening_sentence closing_line picture_book book_text audio_guide audio_script transcript
        columnist column anecdote memoir flash_fiction fan_fiction novella saga myth legend parable allegory satire
        parody ode elegy villanelle couplet quatrain verses chorus jingle song_lyrics radio_play one_act stage_play
        playwright screenwriter voiceover voice_over storyboard logline synopsis blurb dedication epigraph epitaph
        vow vows farewell_poem retirement_speech wedding_speech best_man maid_of cover_letters condolence
        condolences open_letter letter_from letter_to poem_for poem_about story_about story_in scene_where
        scene_between",
    ),
    (
        Group::Document,
        "
        文章 文字 文本 段落 摘要 标题 报告 报道 评论 新闻 新闻文章 对话 人物 角色 场景 描述一 合同 方案 公告 通知
        article post paragraph summary abstract outline headline title report review copy ad character introduction
        conclusion instructions chapter conversation dialog dialogue narrative feature_article",
    ),
    (
        Group::Society,
        "
        历史 朝代 皇帝 战争 革命 改革 条约 起义 殖民 帝国 封建 变法 近代 古代 秦朝 汉代 唐代 宋代 明代 清代 明清
        民国 抗日 解放 新中国 共产党 中共 党的 政府 政治 民主 法律 法治 宪法 立法 司法 人大 政协 公民 权利 义务 制度
        外交 国际 联合国 经济 需求 供给 货币 财政 税收 贸易 全球化 通货膨胀 生产力 传统 民族 宗教 哲学 矛盾 唯物
        辩证 认识 实践 价值观 社会主义 地理 气候 地形 河流 城市 农业 工业 区域 洋流 季风 纬度 经度 海拔 降水 板块
        首都 环境保护 可持续 反映 体现 主要原因 启示 说明 下列 材料反映 选项 正确的是 这说明 history historical
        dynasty emperor war revolution treaty empire colonial government political politics democracy law legal
        constitution policy president country capital economy economic market inflation trade gdp society culture
        tradition religion philosophy geography climate population city continent century civilization 习近平 总书记
        毛泽东 邓小平 孙中山 马克思 列宁 辛亥 五四 洋务 戊戌 鸦片 甲午 长征 根据地 边区 抗战 内战 冷战 美苏 苏联
        罗马 希腊 启蒙 文艺复兴 工业革命 资本主义 资产阶级 无产阶级 农民 地主 士人 科举 郡县 丞相 中央集权 专制 皇权
        儒家 儒学 孔子 孟子 理学 佛教 道家 法家 诸子 丝绸之路 朝贡 海禁 白银 手工业 商品经济 国务院 国有企业 民营
        就业 收入分配 居民 农村 乡村 土地 承包 产权 公有制 市场经济 宏观 产能 汇率 美元 外商 投资 融资 供应链 产业链
        消费者 价值 公共 治理 依法 依法治国 基层 自治 居委会 村委会 政协委员 人民代表 民族区域 一国两制 合作 和平
        主权 精神文明 家风 道德 优秀传统 创新 意识 物质 联系 真理 客观 主观 人生价值 图为 据图 下图 读图 聚落 城镇化
        城市化 迁移 植被 土壤 冻土 冰川 沙漠 高原 平原 盆地 流域 湖泊 海岸 岛屿 纬 经纬 时区 昼夜 正午 太阳高度 自转
        公转 等高线 等温线 冷锋 暖流 寒流 水循环 自然灾害 泥石流 湿地 耕地 粮食 棉花 水稻 小麦 交通 铁路 港口 区位
        体现了 反映了 旨在 意在 说明了 可以推断 推知 表述正确 史料 史学 考古 文物 记载 回答问题 congress parliament
        senate election communism capitalism socialism feudal medieval renaissance enlightenment
        industrial_revolution world_war cold_war civil_war ancient roman greek egyptian king queen prime_minister
        minister supreme_court human_rights immigration tax taxation budget_deficit central_bank interest_rate
        stock_market globalization tourism agriculture urbanization river mountain ocean desert island border tribe
        ethnic church islam buddhism christianity confucius 利润 利率 存款 税率 价格 商品 出口 进口 人口 面积 产业
        生产 资源 材料 发展 规律 条件 提高 增长 促进 推动 政策 国家 企业 消费 市场 社会 文化 这表明 这反映 这体现
        表明 主要是 说法 判断正确 上述 据此 由此 该地 该国 我国 人们 时期 世纪 年代 纪念 精神 思想 观点 作用 意义
        措施 农业现代",
    ),
    (
        Group::Everyday,
        "
        推荐 旅游 旅行 景点 美食 菜谱 食谱 做法 怎么做 做菜 烹饪 食材 蛋糕 咖啡 购物 品牌 手机推荐 汽车 电影 电视剧
        音乐 歌手 明星 运动 足球 篮球 奥运 健身 宠物 猫 狗 天气 星座 生日 礼物 家居 装修 搬家 学习方法 时间管理
        面试技巧 职业规划 理财 股票 基金 房价 租房 英语 翻译 成语 谚语 近义词 反义词 同义词 造句 语法 词语 颜色 水果
        动物 植物 节日 春节 recommend travel trip vacation recipe cook cooking ingredient restaurant food coffee
        shopping brand car movie film music singer band sport football basketball exercise pet dog cat weather
        birthday gift furniture budget career interview hobby animal plant fruit color colour synonym antonym
        translate grammar sentence idiom proverb 动画 游戏 综艺 球队 nba 世界杯 网球 羽毛球 游泳 跑步 瑜伽 减肥 早餐
        午餐 晚餐 三明治 花生酱 火锅 饺子 面条 烤箱 沙拉 汤 水果茶 红酒 啤酒 酒店 机票 签证 自驾 公园 博物馆 迪士尼
        海滩 车 汽油 电动车 手机 电脑 耳机 相机 衣服 穿搭 化妆 护肤 口红 发型 家具 厨房 卧室 花园 盆栽 养花 园艺
        养猫 养狗 邻居 朋友 恋爱 女朋友 男朋友 婚姻 父母 育儿 教育 考研 高考 大学 专业 留学 求职 工作 老板 同事 领导
        团队 会议 沟通 压力 习惯 目标 储蓄 信用卡 贷款 保险 买房 卖 客户 市场营销 营销 创业 公司 社交媒体 视频 照片
        图片 短语 名字 称呼 数字 字母 单词 星期 月份 时间 首字母 灭火器 洗衣 清洁 垃圾 回收 节约 环保 志愿 慈善
        sandwich salad soup breakfast lunch dinner wine beer hotel flight visa park museum beach camera phone laptop
        clothes outfit makeup skincare kitchen bedroom garden neighbor friend relationship girlfriend boyfriend
        marriage parent kid school college university student teacher job boss coworker team meeting communication
        stress habit goal saving loan insurance customer marketing startup business company social photo picture
        festival holiday christmas halloween week month gift_ideas party celebrity actor actress team_name trivia
        quiz",
    ),
    (
        Group::Ask,
        "
        列出 列举 举例 举例说明 给出 说出 提供 分类 归类 比较 区别 优缺点 解释 什么是 为什么 如何 建议 有哪些 方法
        步骤 技巧 原因 影响 优点 好处 识别 判断 选择 命名 确定 找出 哪个 哪一 谁 多大 在哪 怎么样 有什么 为何 请问
        能否 是否 了解么 谈谈 分析 讨论 指出 提出 制定 计划 对比 列一 想出 list name give identify classify
        categorize explain describe suggest tip advice what_is who why difference_between compare advantage
        disadvantage benefit example best_way should steps what_are how_to how_do how_does how_can when which
        can_you could_you is_it do_you provide propose discuss analyze find outline_the",
    ),
    (
        Group::Science,
        "
        物理 化学 生物 天文 宇宙 星球 太阳系 黑洞 引力 重力 量子 相对论 原子 分子 电子 元素 化合物 反应 氧化 酸碱
        光合作用 细胞 基因 进化 物种 生态 生态系统 恐龙 地震 火山 能源 太阳能 风能 核能 电池 电路 磁场 光速 温室效应
        全球变暖 气候变化 人工智能 机器人 区块链 虚拟现实 互联网 物联网 大数据 physics chemistry biology astronomy
        universe planet solar gravity quantum relativity atom molecule element compound reaction oxidation acid
        photosynthesis dna evolution species ecosystem dinosaur earthquake volcano energy battery circuit magnetic
        light_speed greenhouse global_warming climate_change artificial_intelligence robot blockchain
        virtual_reality internet_of",
    ),
    (
        Group::Language,
        "
        句子 改为 改正 句型 时态 主语 谓语 标点 主动语态 被动语态 病句 填空 下列句子 转换 概括 总结 归纳 提取 关键词
        情感 情感分析 分类为 阅读下面 根据下文 给定 以下 下面 这段 这句 删除 插入 替换 重新排列 输入 输出 given
        following rearrange replace convert passive active_voice tense punctuation correct fill_in blank extract
        keyword summarize sentiment input output text phrase word passage paragraph_below 排序下列 词汇 名词 动词
        形容词 副词 介词 连词 冠词 过去时 完成时 时间状语 引号 逗号 句号 拼写 语病 同音 组词 拼音 汉字 部首 笔画
        文言文 译文 翻译成 翻译为 译成 给定的 用户输入 提供的 类别 标签 积极 消极 中性 评分 判断以下 识别以下
        找出以下 从以下 根据以下 将以下 以下内容 以下句子 这篇 这篇文章 adjective adverb noun verb pronoun
        preposition clause plural singular misspelled spelling abbreviation acronym rhyming_words definition
        the_following following_sentence given_sentence given_text given_paragraph positive_or negative_sentiment
        classify_the translate_the french spanish german chinese japanese english",
    ),
];

#[cfg(test)]
mod tests {
    use super::super::ngram::grams;
    use super::*;

    fn group(word: &str) -> Option<usize> {
        group_of(hash_chars(&word.chars().collect::<Vec<_>>()))
    }

    #[test]
    fn words_plurals_and_pairs_are_found() {
        assert_eq!(group("方程"), Some(Group::Mathematics as usize));
        assert_eq!(group("antibiotics"), Some(Group::Treatment as usize));
        assert_eq!(group("binary tree"), Some(Group::Programming as usize));
        assert_eq!(group("zzyzx"), None);
    }

    #[test]
    fn every_entry_is_found_in_text_that_consists_of_it() {
        for (group, words) in WORDS {
            for word in words.split_whitespace() {
                let text: Vec<char> = format!(" {} ", word.replace('_', " ")).chars().collect();
                assert!(grams(&text).hits[*group as usize] > 0.0, "{group:?}: {word} never matches");
            }
        }
    }
}
